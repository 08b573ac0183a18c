// Package node assembles one node of a cluster: data directory, Raft host,
// directory, a replica, a coordinator and a keeper of checkpoints for each group
// that the directory places here, what makes the files of restored groups, the
// driver of changes of the members, which works where the directory is led, the
// agent of the instances attached here, the gRPC API with health and reflection,
// and HTTP for metrics and health. It uses no dependency injection; cmd/cohort
// wires it, tests and internal/cluster call it.
//
//	New ─▶ Start ─▶ (registered, replicas started: Ready) ─▶ Close
//	                                                     └─▶ Kill
//
// # When something is missing
//
//	data directory not initialised      Start fails and says how to make it
//	address taken                       Start fails and names it
//	no majority of the nodes            the node waits: not ready, health NOT_SERVING
//	another data directory was known    the node fails: Failed, Err
//	the node was removed or replaced    the node fails: Failed, Err
//	a replica's data is gone            that replica stays down and the status says
//	                                    so; the node goes on with the others
package node
