package protocol

import (
	"fmt"
	"time"

	"github.com/cohort-tx/cohort/txlog/command"
	"github.com/cohort-tx/cohort/txlog/machine"
)

const (
	day = int64(24 * time.Hour)
	// clockSlack is how far behind the log's last times the clock may be before
	// those are taken for wrong.
	clockSlack = int64(time.Minute)
	// writingPatience is how long the schedule waits for a checkpoint that is being
	// written. One that is never finished, since nodes are gone, must not end it.
	writingPatience = int64(10 * time.Minute)
)

// Policy says when checkpoints are due. What is zero never makes one due.
type Policy struct {
	Interval   time.Duration
	At         []int // minutes after midnight, UTC
	LogBytes   uint64
	LogEntries uint64
	// MinGap is kept after every attempt, whatever came of it.
	MinGap time.Duration
}

// Due tells whether a checkpoint is due at a time by the coordinator's clock, for
// what, and which further requests it serves. Requests go before the schedule, the
// oldest first. Otherwise next is when to look again, 0 for when something
// changes.
//
// writing is since when a checkpoint is being written, 0 when none is: the schedule
// waits for it, since one that is cut faster than it is written would bring more and
// more of them, each later than the one before. Requests do not wait.
//
// A time that passed while nobody looked is caught up once, for what counts is
// whether one passed since the last cut, not how many. The token follows from the
// schedule alone, so that two coordinators that find the same due record it once.
//
// What the log says is later than now is a clock that was put back. A little later
// is taken as just now; from more nothing is to be learnt, and it is taken as long
// ago: that makes one checkpoint, which puts the schedule's times right. For that
// they are the proposers' clocks as they were, not the log's time, which never
// goes back.
func Due(s machine.Schedule, position uint64, p Policy, writing, nowUnixNano int64) (wish command.CheckpointRequest, serves []string, due bool, next int64) {
	now := nowUnixNano
	attempt := clamp(s.AttemptUnixNano, now)
	trigger, at := dueByRequest(s, now)
	if trigger == 0 {
		trigger, at = dueBySchedule(s, position, p, now)
		if since := clamp(writing, now); trigger != 0 && since != 0 {
			at = max(at, since+writingPatience)
		}
	}
	if trigger == 0 {
		return wish, nil, false, at
	}
	if allowed := attempt + int64(p.MinGap); attempt != 0 && now < allowed {
		return wish, nil, false, max(at, allowed)
	}
	if at > now {
		return wish, nil, false, at
	}
	if len(s.Pending) > 0 {
		wish = s.Pending[0]
		for _, r := range s.Pending[1:] {
			if covers(wish.Participants, r.Participants) {
				serves = append(serves, r.Token)
			}
		}
		return wish, serves, true, 0
	}
	return command.CheckpointRequest{
		Token:        fmt.Sprintf("schedule-%d-%d", s.Cut.Number, s.NextNumber),
		Trigger:      trigger,
		TimeUnixNano: at,
	}, nil, true, 0
}

// clamp takes a time of the log by the clock: 0 when it tells nothing.
func clamp(t, now int64) int64 {
	switch {
	case t <= now:
		return t
	case t-now <= clockSlack:
		return now
	}
	return 0
}

func dueByRequest(s machine.Schedule, now int64) (command.Trigger, int64) {
	if len(s.Pending) == 0 {
		return 0, 0
	}
	return s.Pending[0].Trigger, min(s.Pending[0].TimeUnixNano, now)
}

// dueBySchedule gives what is due first and since when, or when something will be.
// Without anything its trigger is 0, and so is the time.
func dueBySchedule(s machine.Schedule, position uint64, p Policy, now int64) (command.Trigger, int64) {
	since := s.SinceUnixNano
	if s.Cut.Number != 0 {
		since = s.Cut.UnixNano
	}
	if since == 0 {
		return 0, 0 // checkpoints are not possible yet
	}
	since = clamp(since, now)
	var trigger command.Trigger
	var first int64
	found := func(t command.Trigger, at int64) {
		if trigger == 0 || at < first && first > now {
			trigger, first = t, at
		}
	}
	if len(p.At) > 0 {
		found(command.TriggerAt, nextAt(p.At, since, now))
	}
	if p.Interval > 0 {
		found(command.TriggerInterval, since+int64(p.Interval))
	}
	if p.LogBytes > 0 && s.LogBytes >= s.Cut.LogBytes && s.LogBytes-s.Cut.LogBytes >= p.LogBytes {
		found(command.TriggerLogBytes, now)
	}
	if p.LogEntries > 0 && position >= s.Cut.Position && position-s.Cut.Position >= p.LogEntries {
		found(command.TriggerLogEntries, now)
	}
	return trigger, first
}

// nextAt is the last of the times of day after since and not after now, or else
// the first one after now.
func nextAt(minutes []int, since, now int64) int64 {
	midnight := now - now%day
	var passed, coming int64
	for _, m := range minutes {
		for _, d := range []int64{-day, 0, day} {
			at := midnight + d + int64(m)*int64(time.Minute)
			switch {
			case at > since && at <= now:
				passed = max(passed, at)
			case at > now && (coming == 0 || at < coming):
				coming = at
			}
		}
	}
	if passed != 0 {
		return passed
	}
	return coming
}

// covers tells whether a checkpoint of some participants is one of others too;
// none means all.
func covers(of, wanted []string) bool {
	if len(of) == 0 {
		return true
	}
	if len(wanted) == 0 {
		return false
	}
	have := make(map[string]bool, len(of))
	for _, name := range of {
		have[name] = true
	}
	for _, name := range wanted {
		if !have[name] {
			return false
		}
	}
	return true
}
