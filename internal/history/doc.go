// Package history decides whether what clients saw of a store is strictly
// serializable: whether one order of the committed transactions explains all
// they read, and agrees with which transaction was over before which began.
//
// A history is what clients recorded: each transaction's operations, when it was
// invoked and returned by one monotonic clock, and whether it committed. Check
// says what is wrong with it, each finding with its evidence.
//
// # Objects
//
// A key holds a list or a register, always the same of both.
//
//	append  adds a value to the end of a list; a list begins empty
//	list    reads a list
//	write   sets a register
//	read    reads a register; it begins absent
//
// The values given to one key are all different, over transactions of every
// outcome. So whoever reads a value is known to have read from its writer.
//
// # Outcomes
//
// An aborted transaction must have happened for nobody. An indeterminate one may
// have happened at any time after its invocation, or never: it counts as
// committed when a committed one read from it, and is left out when not, which
// loses nothing.
//
// # Method
//
// That of Adya (Weak Consistency, 1999) as Kingsbury and Alvaro made it work from
// the outside (Elle, VLDB 2020): a graph of the committed transactions, whose
// edges mean "before".
//
//	ww  wrote the version that the other one's write replaced
//	wr  wrote the version that the other one read
//	rw  read the version that the other one's write replaced
//	rt  returned before the other one was invoked
//
// The order of a list's versions is in every list read from it, and a list that
// was read and then appended to is followed by that append. The order of a
// register's versions is known where a transaction reads and writes it. Such
// chains are kept whole, and put in order by real time: a chain of which
// something was over before something of another one began is before it
// (Gibbons and Korach, Testing Shared Memories, 1997). Edges found that way are
// written ww(t) and rw(t).
//
// Real time needs no edge for each pair: returns and invocations hang on one
// chain of moments, which takes O(n). Tarjan's algorithm finds what is on cycles,
// and a breadth-first search the shortest one.
//
// # What is found
//
//	internal             a transaction reads other than what it read or wrote before
//	unwritten            a value that nobody wrote
//	duplicate            a list that holds a value twice
//	incompatible         two lists of one key of which none begins with the other, or
//	                     one that contradicts the order of a transaction's appends
//	G1a                  aborted read: a value of an aborted transaction
//	G1b                  intermediate read: a value that its transaction replaced or went on from
//	lost update          two transactions read one version and both replace it
//	G0                   cycle of ww
//	G1c                  cycle of ww and wr
//	G-single             cycle with one rw
//	G2                   cycle with several rw
//	real-time violation  cycle that needs rt, ww(t) or rw(t)
//
// Cycles are searched for in this order, and a transaction that is on one that was
// found is left out of the search for others: a history with one fault gives its
// name, a history with many gives some of them. What shows only in a cycle of five
// or more is shown by a shorter one with real time too, where there is one.
//
// For lists the verdict is exact, as it is for histories of one register and for
// registers that are only written by who has read them. With blind writes to
// several registers every finding is still true, but some faults need orders that
// are not inferred here (deciding that is NP-complete).
//
// # File
//
// One JSON object a line, one line a transaction, in any order:
//
//	{"client":3,"id":"c3-17","invoked_ns":1200,"returned_ns":1900,"outcome":"ok","ops":[
//	  {"op":"list","key":"a/x","values":[1,2]},{"op":"append","key":"a/x","value":7},
//	  {"op":"read","key":"b/r","value":4},{"op":"read","key":"b/s"},{"op":"write","key":"b/s","value":9}]}
//
// (in one line). Times are nanoseconds since any one moment; outcome is ok,
// aborted or indeterminate; a read without value found nothing; id may be
// missing. returned_ns of an indeterminate transaction says when its client gave
// up, and counts for nothing. Ops are in program order; what a transaction read
// is only looked at when it committed. Unknown fields are errors.
package history
