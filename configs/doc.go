// Package configs is the configuration of a node: its type, its defaults, what
// makes it valid, and the commented files that ship with Cohort (node.yaml,
// group.yaml, and the directory three-nodes).
//
// Every wrong key or value is reported at once, with file, line, column, the
// path of the key and what would be right. Two rules protect whoever copies a
// file without reading it: an address beyond loopback needs TLS or the line
// `insecure: true`, and profiles are not served unless asked for.
package configs
