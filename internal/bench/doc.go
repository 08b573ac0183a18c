// Package bench measures a cluster: how many transactions a second, how long they
// take, what checkpoints and restores cost, and whether anything grows. The
// command is `cohort bench`; this package has no flags and prints nothing.
//
//	Config ─▶ Run ─▶ target     an embedded cluster, or a running one, with the group "bench"
//	                 group      the SDK over gRPC, or the coordinator's Go API in process
//	                 scene      the operations of the workloads
//	                 run        puts a load on an operation and measures it
//	                 ─▶ Report ─▶ Compare
//
// # What is measured
//
// A closed loop keeps a number of operations in flight: each worker begins the
// next when its last one has ended. It finds the highest throughput, and its
// latencies are those of clients that wait for each other. An open loop begins
// operations at a rate. There a latency is counted from when the operation was to
// begin, so that one slow operation costs all those behind it what it would cost
// users who do not know of each other. An operation that was due and did not begin
// in time counts with what it had waited.
//
// Latencies are of operations that succeeded, attempts after a conflict and the
// pauses before them included. Throughput is what ended well within the window. At
// the end, what is under way is waited for.
//
// # What it is compared with
//
// Raw proposes plain 256-byte entries to a shard on the same dragonboat hosts, with
// the same settings, whose machine does nothing: what Raft alone costs on this
// machine. Ratios to it, taken in one run, say more than absolute figures, which
// are those of one machine at one time.
//
// # What it touches
//
// It writes to the group "bench" alone, whose participants are bench-1, bench-2
// and so on, and refuses one of that name with others. An embedded cluster's files
// are in a temporary directory that is removed at the end. On a running cluster the
// group stays.
package bench
