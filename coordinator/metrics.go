package coordinator

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cohort-tx/cohort/coordinator/protocol"
	"github.com/cohort-tx/cohort/txlog/machine"
)

// Metrics are shared by a node's coordinators. Nothing is labelled by
// transaction.
type Metrics struct {
	commits       *prometheus.CounterVec
	commitSeconds *prometheus.HistogramVec
	steps         *prometheus.CounterVec
	entries       *prometheus.CounterVec
	entryCommands *prometheus.HistogramVec
	open          *prometheus.GaugeVec
	inFlight      *prometheus.GaugeVec
	atGate        *prometheus.GaugeVec
	stagedBytes   *prometheus.GaugeVec
	epoch         *prometheus.GaugeVec

	checkpoints       *prometheus.CounterVec
	pauseSeconds      *prometheus.HistogramVec
	waitSeconds       *prometheus.HistogramVec
	checkpointTime    *prometheus.GaugeVec
	checkpointBytes   *prometheus.GaugeVec
	checkpointSeconds *prometheus.GaugeVec
	gateClosed        *prometheus.GaugeVec
}

// NewMetrics registers them; a nil registerer keeps them to themselves.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "cohort", Subsystem: "coordinator", Name: name, Help: help}, append([]string{"group"}, labels...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "cohort", Subsystem: "coordinator", Name: name, Help: help}, []string{"group"})
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "cohort", Subsystem: "coordinator", Name: name, Help: help, Buckets: buckets}, []string{"group"})
	}
	m := &Metrics{
		commits:       counter("commits_total", "Answers to commit requests, by outcome and, of aborts, by reason.", "outcome", "reason"),
		commitSeconds: histogram("commit_seconds", "Time from a commit request to its answer.", prometheus.ExponentialBuckets(0.0002, 2, 18)),
		steps:         counter("steps_total", "Answers to step calls, by result.", "result"),
		entries:       counter("entries_total", "Proposals of log entries, by result.", "result"),
		entryCommands: histogram("entry_commands", "Commands in a proposed log entry.", prometheus.ExponentialBuckets(1, 2, 11)),
		open:          gauge("open", "Attempts that have begun and not ended."),
		inFlight:      gauge("in_flight", "Commits between arrival and decision."),
		atGate:        gauge("at_gate", "Commits that wait for the checkpoint gate."),
		stagedBytes:   gauge("staged_bytes", "What open attempts hold in memory."),
		epoch:         gauge("epoch", "Coordinator epoch while this node coordinates the group, 0 otherwise."),
	}
	m.checkpoints = counter("checkpoints_total", "Attempts to take a checkpoint, by result: cut, complete, abandoned.", "result")
	m.pauseSeconds = histogram("checkpoint_pause_seconds", "Time that commits waited at the closed gate of a checkpoint.", prometheus.ExponentialBuckets(0.0002, 2, 14))
	m.waitSeconds = histogram("checkpoint_wait_seconds", "Time from a checkpoint's trigger to the closing of the gate.", prometheus.ExponentialBuckets(0.001, 2, 16))
	m.checkpointTime = gauge("checkpoint_timestamp_seconds", "Time of the newest complete checkpoint's cut.")
	m.checkpointBytes = gauge("checkpoint_bytes", "Size of the newest complete checkpoint's files.")
	m.checkpointSeconds = gauge("checkpoint_write_seconds", "How long the slowest copy of the newest complete checkpoint took to be written.")
	m.gateClosed = gauge("gate_closed", "1 while commits wait for a checkpoint's cut.")
	if reg != nil {
		reg.MustRegister(m.checkpoints, m.pauseSeconds, m.waitSeconds, m.checkpointTime, m.checkpointBytes, m.checkpointSeconds, m.gateClosed, m.commits, m.commitSeconds, m.steps, m.entries, m.entryCommands, m.open, m.inFlight, m.atGate, m.stagedBytes, m.epoch)
	}
	return m
}

// groupMetrics are one group's, looked up once.
type groupMetrics struct {
	committed, indeterminate              prometheus.Counter
	aborted                               *prometheus.CounterVec
	commitSeconds, entryCommands          prometheus.Observer
	stepsDone, stepsFailed                prometheus.Counter
	applied, notProposed, doubtful        prometheus.Counter
	open, inFlight, atGate, staged, epoch prometheus.Gauge

	checkpoints                                                    *prometheus.CounterVec
	pauseSeconds, waitSeconds                                      prometheus.Observer
	checkpointTime, checkpointBytes, checkpointSeconds, gateClosed prometheus.Gauge
	// completed is the number of the newest complete checkpoint counted.
	completed atomic.Uint64
}

func (m *Metrics) of(group string) *groupMetrics {
	return &groupMetrics{
		committed:     m.commits.WithLabelValues(group, "committed", ""),
		indeterminate: m.commits.WithLabelValues(group, "indeterminate", ""),
		aborted:       m.commits.MustCurryWith(prometheus.Labels{"group": group, "outcome": "aborted"}),
		commitSeconds: m.commitSeconds.WithLabelValues(group),
		entryCommands: m.entryCommands.WithLabelValues(group),
		stepsDone:     m.steps.WithLabelValues(group, "done"),
		stepsFailed:   m.steps.WithLabelValues(group, "failed"),
		applied:       m.entries.WithLabelValues(group, "applied"),
		notProposed:   m.entries.WithLabelValues(group, "not_proposed"),
		doubtful:      m.entries.WithLabelValues(group, "doubtful"),
		open:          m.open.WithLabelValues(group),
		inFlight:      m.inFlight.WithLabelValues(group),
		atGate:        m.atGate.WithLabelValues(group),
		staged:        m.stagedBytes.WithLabelValues(group),
		epoch:         m.epoch.WithLabelValues(group),

		checkpoints:       m.checkpoints.MustCurryWith(prometheus.Labels{"group": group}),
		pauseSeconds:      m.pauseSeconds.WithLabelValues(group),
		waitSeconds:       m.waitSeconds.WithLabelValues(group),
		checkpointTime:    m.checkpointTime.WithLabelValues(group),
		checkpointBytes:   m.checkpointBytes.WithLabelValues(group),
		checkpointSeconds: m.checkpointSeconds.WithLabelValues(group),
		gateClosed:        m.gateClosed.WithLabelValues(group),
	}
}

func (g *groupMetrics) load(l protocol.Load) {
	g.open.Set(float64(l.Open))
	g.inFlight.Set(float64(l.InFlight))
	g.atGate.Set(float64(l.AtGate))
	g.staged.Set(float64(l.StagedBytes))
	closed := 0.0
	if l.GateClosed {
		closed = 1
	}
	g.gateClosed.Set(closed)
}

func (g *groupMetrics) commit(ans protocol.Answer, took time.Duration) {
	switch ans := ans.(type) {
	case *protocol.Committed:
		g.committed.Inc()
		g.commitSeconds.Observe(took.Seconds())
	case *protocol.Aborted:
		g.aborted.WithLabelValues(ReasonName(ans.Reason)).Inc()
		g.commitSeconds.Observe(took.Seconds())
	case *protocol.Indeterminate:
		g.indeterminate.Inc()
	}
}

func (g *groupMetrics) checkpointTaken(pause, wait time.Duration) {
	g.checkpoints.WithLabelValues("cut").Inc()
	g.pauseSeconds.Observe(pause.Seconds())
	g.waitSeconds.Observe(wait.Seconds())
}

// checkpointCompleted counts a complete checkpoint once.
func (g *groupMetrics) checkpointCompleted(c *machine.Checkpoint) {
	for last := g.completed.Load(); last < c.Number; last = g.completed.Load() {
		if !g.completed.CompareAndSwap(last, c.Number) {
			continue
		}
		var bytes, nanos uint64
		for i := range c.Copies {
			bytes, nanos = max(bytes, c.Copies[i].Bytes), max(nanos, c.Copies[i].WriteNanos)
		}
		g.checkpoints.WithLabelValues("complete").Inc()
		g.checkpointTime.Set(float64(c.TimeUnixNano) / 1e9)
		g.checkpointBytes.Set(float64(bytes))
		g.checkpointSeconds.Set(time.Duration(nanos).Seconds())
		return
	}
}
