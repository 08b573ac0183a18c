package protocol

import "time"

// Bounds of a coordinator, each with what it protects. What a group's definition
// bounds is in Config.
const (
	// MaxEntryCommands of one Raft entry. Larger entries gain little and make
	// everybody in them wait for the slowest; the log's own bound is 1,024.
	MaxEntryCommands = 512
	// MaxEntryBytes is where a batch is cut off. One large transaction goes alone.
	MaxEntryBytes = 1 << 20
	// MaxEntriesInFlight keeps Raft's pipeline busy while one entry is applied.
	// Beyond it batches grow instead.
	MaxEntriesInFlight = 4
	// MaxProposals is that with the one more that a checkpoint sends on its way.
	MaxProposals = MaxEntriesInFlight + 1
	// MaxWaiters of one attempt or step: the same request sent again and again.
	MaxWaiters = 16
	// MaxSteps of one attempt; their results are stored until it ends.
	MaxSteps = 1000
	// MaxWaitingCalls of one participant in motion.
	MaxWaitingCalls = 1024
	// MaxInstances attached as one participant, the active one included.
	MaxInstances = 16
	// MaxRemembered answers of attempts that ended.
	MaxRemembered = 16384
	// MaxAdministering commands under way that are no transactions of clients:
	// settlements, definitions, maintenance.
	MaxAdministering = 1024

	// ActivationMargin is what a call waits for a participant in motion beyond the
	// time after which its failover begins.
	ActivationMargin = 2 * time.Second
	// ReannounceWait is how long another instance on the active one's node waits
	// after a session was lost: the agent announces what is still attached first.
	ReannounceWait = 500 * time.Millisecond
	// RetryMin and RetryMax bound the pause before something is proposed again; it
	// doubles from one to the other.
	RetryMin = 2 * time.Millisecond
	RetryMax = 250 * time.Millisecond
	// CheckpointPauseMin and CheckpointPauseMax bound the pause between two tries
	// to close the gate; it doubles from one to the other, so that a participant
	// that is slow to vote does not stop everybody's commits most of the time.
	CheckpointPauseMin = 50 * time.Millisecond
	CheckpointPauseMax = 2 * time.Second
)
