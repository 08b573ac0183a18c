// Command cohort is Cohort's one binary: it serves a node, runs a development
// cluster, and is what operators and scripts use to look and to act.
//
// # Rules every command keeps
//
//   - Results go to standard output, everything else to standard error.
//   - -o json prints one JSON object a line: snake_case names, durations in
//     seconds, sizes in bytes, times in RFC 3339. -o yaml prints the same data.
//   - Exit code 0: done. 1: it failed, was aborted, or something is unhealthy.
//     2: the command line is wrong.
//   - An error says what to do next.
//
// Dependency injection (fx) is used here and nowhere else: see wiring.go.
package main
