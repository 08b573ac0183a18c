// Package coordinator runs a group's transactions on the node that leads it, and
// serves them over gRPC.
//
// # Reigns
//
// A Coordinator governs whenever its node leads the group's shard. Its reign under
// a term begins with an entry that raises the group's epoch to the term, and with
// reading the group's configuration and activations from the state that holds that
// entry. It ends with the lead, with Close, or when the log answers that a newer
// coordinator is in charge. Of one term there is at most one reign.
//
// A reign is a protocol.Core and the loop that drives it. The core decides; the
// loop performs: it alone touches the core, takes letters from its mailbox in
// bursts, and hands to others what takes time. Proposers bring entries to the log
// and their results back. The reader makes linearizable snapshots, one ReadIndex
// for all who wait. Reading for the early look at a commit, and for outcomes, is
// done by the callers themselves.
//
// # What a caller may rely on
//
//   - *Aborted: the attempt did not and will not commit. Where a Decide of it may
//     be in the log, the abort comes from the log; where an earlier coordinator may
//     have committed it, the log's state has been looked at.
//   - *Indeterminate: not known here. Outcome, or the same Commit again, tells.
//   - ErrNotServing: nothing was started. Another node, or this one later.
//
// # Checkpoints
//
// A reign looks at the schedule every 250 ms and when something is asked for. One
// checkpoint at a time goes through the core: gate, quiescence, the Checkpoint
// alone in its entry, gate open. What the keepers of the nodes report of their
// copies and disks becomes ReportCopy entries, Retain entries, and refusals of
// commits. Everything that a next reign must know is in the log.
//
// States that participants keep by themselves are captured before the gate opens
// and stored after it: the nodes report them, and the reports become ReportCapture
// entries. At each look, what the log waits for and the core does not, and what is
// older than 10 min, is failed, which abandons the checkpoint.
//
// Restore, import and drill run on the node that coordinates the group. In place,
// the directory's BeginIncarnation is the point of no return: before it plan
// and seal are taken back, by the request or, once sealed, by the next reign.
//
// # What the end of things leaves
//
//	the caller goes            the decision is made all the same
//	a proposal is dropped      it is proposed again until the attempt's timeout
//	a proposal's fate unknown  proposed again as it was: the log takes it once
//	an instance goes           its running steps fail; unanswered prepares abort
//	an agent's session ends    its instances are gone, for now
//	the lead is lost           proposed: indeterminate; the rest: aborted, moved
//	the process dies           the same, with nobody left to say so
//	a checkpoint is under way  not cut: taken by the next reign, if asked for or due;
//	                           cut: its copies are written all the same, unless
//	                           it lacks captured state: then it is abandoned
package coordinator
