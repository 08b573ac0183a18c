package groups

import (
	"time"
)

// Default returns the definition of a group of which nothing but its name and
// participants is said.
func Default(group string, participants ...string) Definition {
	d := Definition{
		Group: group,
		Checkpoint: Checkpoint{
			Interval:   2 * time.Hour,
			LogBytes:   64 << 20,
			LogEntries: 100_000,
			MinGap:     5 * time.Second,
			WaitFor:    WaitForPrepared,
			MaxWait:    10 * time.Second,
			MaxPause:   500 * time.Millisecond,
			MinCopies:  2,
		},
		Outcomes:  Outcomes{Age: 24 * time.Hour, Count: 1_000_000},
		Retention: Retention{Checkpoints: 2, Log: LogDelete},
		Failover: Failover{
			Mode:      ModeAuto,
			Choose:    []Choice{ChooseOrder, ChooseInstalled, ChooseMostCurrent},
			FailAfter: 3 * time.Second,
			Grace:     2 * time.Second,
		},
		Failback: Failback{Mode: ModeManual, StableFor: 5 * time.Minute},
		Limits: Limits{
			InFlight:         4096,
			Open:             10_000,
			StagedBytes:      256 << 20,
			ValueBytes:       1 << 20,
			TransactionBytes: 4 << 20,
			TransactionKeys:  20_000,
			ScanKeys:         10_000,
			Timeout:          30 * time.Second,
		},
	}
	for _, name := range participants {
		d.Participants = append(d.Participants, Participant{Name: name})
	}
	return d
}

// SetDefaults gives a probe its timing.
func (h *Health) SetDefaults() {
	h.Every = time.Second
	h.FailAfter = 3
}

// EnsureDefaults completes a definition made in Go. A section of which nothing
// is set becomes the default one; in the others a field is filled in when zero
// is not a value it may have. (So a Checkpoint with only LogBytes set has no
// interval, as if the file said `interval: 0s`.)
func (d *Definition) EnsureDefaults() {
	defaults := Default(d.Group)
	for i := range d.Participants {
		if h := d.Participants[i].Health; h != nil {
			var probe Health
			probe.SetDefaults()
			orDefault(&h.Every, probe.Every)
			orDefault(&h.FailAfter, probe.FailAfter)
		}
	}
	d.ensureCheckpoint(defaults.Checkpoint)
	orDefault(&d.Outcomes.Age, defaults.Outcomes.Age)
	orDefault(&d.Outcomes.Count, defaults.Outcomes.Count)
	orDefault(&d.Retention.Checkpoints, defaults.Retention.Checkpoints)
	orDefault(&d.Retention.Log, defaults.Retention.Log)
	if f := &d.Failover; f.Mode == "" && f.Choose == nil && f.FailAfter == 0 && f.Grace == 0 {
		*f = defaults.Failover
	} else {
		orDefault(&f.Mode, defaults.Failover.Mode)
		orDefault(&f.FailAfter, defaults.Failover.FailAfter)
		if len(f.Choose) == 0 {
			f.Choose = defaults.Failover.Choose
		}
	}
	if d.Failback == (Failback{}) {
		d.Failback = defaults.Failback
	} else {
		orDefault(&d.Failback.Mode, defaults.Failback.Mode)
	}
	l, dl := &d.Limits, defaults.Limits
	orDefault(&l.InFlight, dl.InFlight)
	orDefault(&l.Open, dl.Open)
	orDefault(&l.StagedBytes, dl.StagedBytes)
	orDefault(&l.ValueBytes, dl.ValueBytes)
	orDefault(&l.TransactionBytes, dl.TransactionBytes)
	orDefault(&l.TransactionKeys, dl.TransactionKeys)
	orDefault(&l.ScanKeys, dl.ScanKeys)
	orDefault(&l.Timeout, dl.Timeout)
	d.normalise()
}

func (d *Definition) ensureCheckpoint(defaults Checkpoint) {
	c := &d.Checkpoint
	if c.Interval == 0 && len(c.At) == 0 && c.LogBytes == 0 && c.LogEntries == 0 && c.MinGap == 0 &&
		c.WaitFor == "" && c.MaxWait == 0 && c.MaxPause == 0 && c.MinCopies == 0 {
		*c = defaults
		c.MinCopies = d.defaultMinCopies()
		return
	}
	orDefault(&c.WaitFor, defaults.WaitFor)
	orDefault(&c.MaxWait, defaults.MaxWait)
	orDefault(&c.MaxPause, min(defaults.MaxPause, c.MaxWait))
	orDefault(&c.MinCopies, d.defaultMinCopies())
}

// defaultMinCopies is 2, or 1 where the file lists a single replica.
func (d *Definition) defaultMinCopies() uint64 {
	if len(d.Replicas) == 1 {
		return 1
	}
	return 2
}

// normalise makes empty lists nil, so that equal definitions are equal values.
func (d *Definition) normalise() {
	emptyToNil(&d.Replicas)
	emptyToNil(&d.Participants)
	emptyToNil(&d.Failover.Choose)
	emptyToNil(&d.Checkpoint.At)
	for i := range d.Participants {
		p := &d.Participants[i]
		emptyToNil(&p.Nodes)
		emptyToNil(&p.Command)
		if p.Health != nil {
			emptyToNil(&p.Health.Exec)
		}
	}
}

func emptyToNil[T any](s *[]T) {
	if len(*s) == 0 {
		*s = nil
	}
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
