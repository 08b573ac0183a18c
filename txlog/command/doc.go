// Package command holds what is said in a group's replicated log: the commands
// that a coordinator proposes, the results the state machine answers, and the
// log entry of a committed transaction. It is plain data; txlog/machine gives it
// its meaning.
package command
