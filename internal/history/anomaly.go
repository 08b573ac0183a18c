package history

import (
	"fmt"
	"slices"
	"strings"
)

// Class is the name of what can be wrong with a history; see the package
// documentation.
type Class string

// Values of Class, in the order in which they are searched for.
const (
	Internal         Class = "internal"
	Unwritten        Class = "unwritten"
	Duplicate        Class = "duplicate"
	Incompatible     Class = "incompatible"
	AbortedRead      Class = "G1a"
	IntermediateRead Class = "G1b"
	LostUpdate       Class = "lost update"
	WriteCycle       Class = "G0"
	CircularFlow     Class = "G1c"
	GSingle          Class = "G-single"
	G2               Class = "G2"
	RealTime         Class = "real-time violation"
)

var classes = []Class{
	Internal, Unwritten, Duplicate, Incompatible, AbortedRead, IntermediateRead, LostUpdate,
	WriteCycle, CircularFlow, GSingle, G2, RealTime,
}

// maxAnomalies bounds what is reported of one class: the first ones are what
// people look at.
const maxAnomalies = 16

// Anomaly is one thing that is wrong, and why.
type Anomaly struct {
	Class Class
	// Detail says it in a sentence, in which T1, T2, … are Transactions.
	Detail string
	// Transactions are what it takes to see it; on a cycle, in its order.
	Transactions []*Transaction
	// Cycle is set for classes that are cycles: step i leads from transaction i to
	// the next one, the last step to the first.
	Cycle []Step
}

// Step is one "before" of a cycle.
type Step struct {
	// Kind is ww, wr, rw, rt, ww(t) or rw(t).
	Kind string
	// Key is empty for rt.
	Key string
	// Value is what the later one wrote, or read when Kind is wr.
	Value int64
	// Witnesses tell why ww(t) and rw(t) are so. The first one wrote or read a version
	// of the chain that is before, the second one a version of the chain that is
	// after, and the first one had returned when the second one was invoked.
	Witnesses []*Transaction
}

func (a *Anomaly) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s: %s\n", a.Class, a.Detail)
	for i, t := range a.Transactions {
		fmt.Fprintf(&s, "  T%d = %s\n", i+1, t)
	}
	for i, step := range a.Cycle {
		from, to := i+1, (i+1)%len(a.Cycle)+1
		fmt.Fprintf(&s, "  T%d before T%d, %s: %s\n", from, to, step.Kind, step.why(from, to))
		if len(step.Witnesses) == 2 {
			fmt.Fprintf(&s, "    for    %s\n    before %s\n", step.Witnesses[0], step.Witnesses[1])
		}
	}
	return s.String()
}

func (s Step) why(from, to int) string {
	switch s.Kind {
	case "wr":
		return fmt.Sprintf("T%d read %d from %s, which T%d wrote", to, s.Value, s.Key, from)
	case "ww", "ww(t)":
		return fmt.Sprintf("T%d wrote %d to %s, after what T%d wrote there", to, s.Value, s.Key, from)
	case "rw", "rw(t)":
		return fmt.Sprintf("T%d wrote %d to %s, after what T%d read there", to, s.Value, s.Key, from)
	}
	return fmt.Sprintf("T%d had returned when T%d was invoked", from, to)
}

// Report is Check's verdict.
type Report struct {
	// Transactions is how many there were, Committed how many of them count as that,
	// Inferred how many of those are indeterminate ones that somebody read from.
	Transactions, Committed, Inferred int
	// Anomalies are in the order of the classes; of each class at most 16.
	Anomalies []*Anomaly
}

// Valid tells that nothing is wrong.
func (r *Report) Valid() bool { return len(r.Anomalies) == 0 }

// Classes are the classes that were found, in their order.
func (r *Report) Classes() []Class {
	var found []Class
	for _, a := range r.Anomalies {
		if !slices.Contains(found, a.Class) {
			found = append(found, a.Class)
		}
	}
	return found
}

func (r *Report) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d transactions, %d committed (%d of them without an answer): ", r.Transactions, r.Committed, r.Inferred)
	if r.Valid() {
		s.WriteString("strictly serializable\n")
		return s.String()
	}
	s.WriteString("not strictly serializable\n")
	for _, a := range r.Anomalies {
		s.WriteString(a.String())
	}
	return s.String()
}
