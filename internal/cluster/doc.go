// Package cluster runs a whole cluster on this machine, on loopback ports: N
// nodes in one process (Embedded), or N processes of `cohort serve` (Processes).
// Both keep everything under one directory and continue with what is there:
//
//	DIR/n1/node.yaml   configuration of the node; `cohort serve --config` takes it
//	DIR/n1/data        its data directory
//	DIR/n1/node.log    what its process logs (Processes)
//	DIR/n2/…
//
// Single nodes can be killed and started again, which is what it is for.
package cluster
