package protocol

import (
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
)

// Activation is what the log says of a participant's active instance.
type Activation struct {
	Participant string
	Node        string
	// Instance is empty when none is active.
	Instance string
	Epoch    uint64
	// OwnState: the log knows that the participant keeps state of its own.
	OwnState bool
}

// Config is what a group's definition and its log say at the reign's beginning,
// and again when the definition changes.
type Config struct {
	// Epoch is the coordinator's.
	Epoch uint64
	// FeatureLevel of the group: below 3 no instance with state of its own is
	// activated, since the log cannot bring its state back.
	FeatureLevel uint64
	// Participants in the definition's order.
	Participants []string
	Activations  []Activation
	// Limits are what the state machine enforces; the core looks first.
	Limits command.Limits

	// InFlight bounds commits between arrival and decision, Open attempts that
	// have begun, StagedBytes what all of them hold.
	InFlight    int
	Open        int
	StagedBytes int64
	// Timeout is the longest lease of an attempt.
	Timeout time.Duration
	// FailAfter and Grace together are how long a standby waits after the active
	// instance's stream is gone. AutoFailover false leaves it to an operator.
	FailAfter, Grace time.Duration
	AutoFailover     bool

	Checkpoint Checkpoint
}

// WaitFor says which attempts a checkpoint waits for.
type WaitFor uint8

const (
	WaitForPrepared WaitFor = 0 // those being committed
	WaitForStarted  WaitFor = 1 // also those that executed a step before the gate closed
)

// Checkpoint is how checkpoints are taken.
type Checkpoint struct {
	WaitFor WaitFor
	// MaxWait after its trigger a checkpoint gives up; 0 is 10 s.
	MaxWait time.Duration
	// MaxPause bounds one closing of the gate; 0 is 500 ms.
	MaxPause time.Duration
	// MinGap is for Policy: the core takes what it is told to.
	MinGap time.Duration
}

func (c *Checkpoint) maxWait() time.Duration {
	if c.MaxWait <= 0 {
		return 10 * time.Second
	}
	return c.MaxWait
}

func (c *Checkpoint) maxPause() time.Duration {
	if c.MaxPause <= 0 {
		return 500 * time.Millisecond
	}
	return c.MaxPause
}

func (c *Config) failover() time.Duration { return c.FailAfter + c.Grace }

// recoverWait is how long a call waits for a participant in motion.
func (c *Config) recoverWait() time.Duration { return c.failover() + ActivationMargin }

// lease bounds what a caller asks for by the group's timeout.
func (c *Config) lease(timeout time.Duration) time.Duration {
	if timeout <= 0 || timeout > c.Timeout {
		return c.Timeout
	}
	return timeout
}
