// Package inventory shows what it takes to bring a program that exists into a
// consistency group. The program keeps stock in memory and in a file:
//
//	before   as it was
//	after    as a participant: the lines that were added give it transactions with
//	         other applications, checkpoints, the group's log and failover
//
// Compare them with
//
//	diff -u examples/inventory/before/main.go examples/inventory/after/main.go
//
// What was added are calls of package participant and the methods that it calls.
// The program's own functions are as they were.
package inventory
