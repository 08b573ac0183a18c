// Package protocol is the coordinator of a consistency group as a pure core: Step
// takes an event and gives effects. It has no clock, no goroutine, no I/O and no
// randomness, so that every order of events can be tried.
//
// It makes transactions fast and their answers orderly. It does not make them
// safe: the state machine of the log checks everything again, and the core may be
// lost at any instant.
//
// # An attempt
//
//	Begin ─▶ opening ─▶ open ─┐
//	                          ├─Commit─▶ (waiting) ─▶ (preparing) ─▶ queued ⇄ proposed ─▶ ended
//	one-shot, or unknown here ┘
//
// opening waits for a linearizable snapshot; open runs steps, one at a time;
// waiting is at the checkpoint gate; preparing has votes out; queued has a complete
// Decide, which is proposed with others in one entry.
//
// From proposed only the log ends an attempt. So it is for one that an earlier
// coordinator may have proposed, from the start. Everything else may end an attempt
// at once: a bound, a no, a timeout, its caller.
//
// # Proposals
//
// An entry ends in one of three ways. Applied: the results are the answers. Not
// proposed: it is certainly not in the log, its commands are queued again, after a
// pause. Doubtful: it may be in the log; it is proposed again as it was until it is
// applied, which is the same as once, for the log answers a decided id with its
// decision.
//
// # A checkpoint
//
// A checkpoint closes the gate: commits that come wait, those past it finish. Once
// nothing is being committed or on its way to the log, its command is proposed,
// alone, and where the log puts it is the cut. The gate opens when the cut is
// applied and the own state of those asked for it is captured, and after max_pause
// at the latest. That is safe at any moment, for the state machine's cut is exact
// by itself: the gate is there so that no transaction is half done in what a
// participant holds. A try that does not come to a cut is followed by others, with
// pauses that grow, until max_wait after the trigger; then what was in the way is
// recorded. A reign's end takes the gate with it.
//
// What a coordinator's end leaves: before the cut is in the log, nothing; after it,
// a checkpoint that may lack captures, which its successor has the log abandon, and
// the note of its pause.
//
// Own state is asked for of those whose active instance has applied the log when
// the cut is proposed. Their answers open the gate; the states are stored later. An
// instance that fails, does not answer within max_pause, or is lost or replaced
// before the log has its state, makes the checkpoint fail, and a report says so to
// the log. A capture must not fall into an attempt of a participant whose handlers
// change its state before the commit: a cut waits for attempts that have called one,
// and while the gate is closed others wait in line for it.
//
// # A participant
//
// Activation epochs are the log's; the core asks for one with an Activate and goes
// by the answer. Calls belong to an attachment of an instance and end with it, so
// that an answer counts only from who was asked, when it was asked.
//
// # Rules and where they are shown
//
// testdata holds a script per rule: a_life_of_an_attempt, admission, steps,
// prepare, abort, timeouts, batching, joining, gate, checkpoint, activation,
// recovering, own_state, and in crash_points what each instant of a coordinator's end leaves.
// The random test holds the core against the real state machine under lost,
// repeated, late and reordered messages.
package protocol
