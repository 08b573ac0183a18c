// Package groups says what a consistency group is, and who is in it.
//
// # Definitions
//
// A Definition is a group file with defaults filled in. Parse reads files
// strictly and reports everything wrong with them at once, each fault with its
// place and what would be right. MarshalJSON and Decode are the canonical form
// that travels in logs and answers: durations in seconds, sizes in bytes. Diff
// says what changes between two definitions.
//
// # The directory
//
// The directory is a small Raft shard with a replica on every node. It holds
// which nodes there are, which groups, on which shards and replicas, under which
// incarnation, and each group's definition. Directory is its state machine, pure
// and without knowledge of what a definition says, so that replicas of different
// versions agree. DirectoryHost runs it.
//
//	command        takes effect when                        repeated
//	RegisterNode   name and addresses are free, or its own  no change
//	CreateGroup    the name is free, members are nodes      no change
//	SetDefinition  the version is the expected one          no change
//	MarkStarted    the replica exists                       no change
//	PlanRestore    no other restore is under way            no change
//	CancelRestore  it is planned and has not begun          no change
//	BeginIncarnation  the plan is its own, a majority of    no change
//	               the members has the files
//
//	AddNode        name and addresses are free              no change
//	ReplaceNode    the node is there, its data another      no change
//	LeaveNode      another node serves                      no change
//	PlanMember     the node is there and stays              no change
//	PromoteMember  the replica exists                       no change
//	DropMember     a node that leaves holds nothing else    no change
//
// Otherwise a command is refused: a result, never an error of the machine. Shard
// and replica ids are counted up and never given twice. An incarnation has a shard
// of its own; IndexBase and EpochBase keep its indexes and epochs apart from those
// before it.
//
// # A node that lost its memory
//
// A Raft replica whose disk was wiped must not vote again under its id. A node
// therefore starts a replica for the first time in this order, and a crash in
// between leaves what the right column says:
//
//	DataDir.Plan(shard, replica)        planned, not marked: carried out next time
//	DirectoryHost.MarkStarted           planned, marked: carried out next time
//	StartReplica with initial members,  planned, with a Raft log: restarted
//	or as one that joins
//	DataDir.Bootstrapped                restarted; a missing Raft log is a loss
//
// DataDir.StartMode decides from these. A replica that is marked without a plan
// here, or bootstrapped without a Raft log, is ErrAmnesia. A data directory is
// made once by InitDataDir, with a random identity that the directory remembers:
// one that was wiped and made again is refused as another.
//
// # Members
//
// Which replicas a shard has is changed by steps that NextStep decides from the
// directory, from Raft and from what the nodes report, and that whoever leads the
// directory takes, one at a time:
//
//	PlanMember           recorded, with a new id; its node starts it
//	Raft: add            it gets the log, and does not vote
//	Raft: promote        it votes
//	PromoteMember        recorded
//	Raft: remove         its id is gone for good
//	DropMember           forgotten; its node clears the files
//
// After a crash between two of them the next one follows from what is the case. A
// node whose data is lost begins anew by ReplaceNode: its old replicas, of groups
// and of the directory, are to be removed, new ones to be added.
//
// # The agent
//
// Agent connects the application instances attached to this node with the
// coordinators of their groups.
package groups
