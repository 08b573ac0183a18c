package groups

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

// TestMembersScripts specifies the planner: a view of a shard, and its next step
// or all that follow. Without it a change could cost a quorum, give a vote to a
// replica that has nothing, or forget an id that can still come back.
//
//	next                  the next step of the view that follows
//	preview [down=(n2)]   all steps that follow, if those nodes do not answer
func TestMembersScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/members", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			switch td.Cmd {
			case "next":
				return showStep(NextStep(scriptView(t, td.Input))) + "\n"
			case "preview":
				var down []string
				for _, a := range td.CmdArgs {
					down = a.Vals
				}
				var b strings.Builder
				for _, s := range Preview(scriptView(t, td.Input), func(node string) bool { return !slices.Contains(down, node) }) {
					b.WriteString(showStep(s) + "\n")
				}
				return b.String()
			}
			t.Fatalf("unknown command %s", td.Cmd)
			return ""
		})
	})
}

func showStep(s Step) string { return s.Kind.String() + ": " + s.Text() }

// scriptView reads a view, a line for each replica:
//
//	wanted n1 n2
//	1 n1 voter 100 leader
//	4 n4 joined learner 20
func scriptView(t *testing.T, input string) *ShardView {
	v := &ShardView{Group: "g", ShardID: 100, MaxVoters: MaxMembers, Raft: &RaftMembers{ConfigID: 1}, Reports: map[uint64]ReplicaReport{}, Held: map[string]string{}}
	leaderless := false
	for line := range strings.Lines(input) {
		words := strings.Fields(line)
		switch words[0] {
		case "wanted":
			v.Wanted = words[1:]
			continue
		case "leaderless":
			leaderless = true
			continue
		case "voters":
			fmt.Sscan(words[1], &v.MaxVoters)
			continue
		case "held":
			v.Held[words[1]] = "node " + words[1] + " holds a replica of group h"
			continue
		case "floor":
			fmt.Sscan(words[1], &v.Floor)
			continue
		}
		m := Member{Node: words[1]}
		if _, err := fmt.Sscan(words[0], &m.ReplicaID); err != nil {
			t.Fatal(line, err)
		}
		for _, w := range words[2:] {
			var applied uint64
			switch w {
			case "joined":
				m.Joined = true
			case "promoted":
				m.Joined, m.Promoted = true, true
			case "leaving":
				m.Leaving = true
			case "voter":
				v.Raft.Voters = append(v.Raft.Voters, m.ReplicaID)
			case "learner":
				v.Raft.Learners = append(v.Raft.Learners, m.ReplicaID)
			case "removed":
				v.Raft.Removed = append(v.Raft.Removed, m.ReplicaID)
			case "leader":
				v.Raft.Leader = m.ReplicaID
			case "halted":
				v.Reports[m.ReplicaID] = ReplicaReport{Problem: "has halted"}
			default:
				if _, err := fmt.Sscan(w, &applied); err != nil {
					t.Fatal(line, w, err)
				}
				v.Reports[m.ReplicaID] = ReplicaReport{Applied: applied}
			}
		}
		v.Members = append(v.Members, m)
	}
	if leaderless {
		v.Raft = nil
	}
	return v
}

// membersModel is a cluster as far as members go: the real directory, and of each
// shard what Raft would have.
type membersModel struct {
	t         *rapid.T
	directory *Directory
	shards    map[uint64]*modelShard
	up        map[string]bool
	// stale are steps that were decided for and come late, as those of a driver that
	// was thought dead.
	stale []staleStep
}

type modelShard struct {
	raft RaftMembers
	// data are the replicas that have started: true while their data is there. caught
	// are those that have what the leader has.
	data, caught map[uint64]bool
}

type staleStep struct {
	shard uint64
	step  Step
}

// TestMembersConverge: whatever is asked for, whoever crashes, wherever the work
// is interrupted, and whatever comes late, no change costs a shard its quorum, no
// id is given twice, no replica without data votes, and in the end, with all nodes
// up, every shard is where it should be.
func TestMembersConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMembersModel(t)
		for range rapid.IntRange(1, 80).Draw(t, "moves") {
			m.move()
		}
		for name := range m.up {
			m.up[name] = true
		}
		m.registerAll()
		for quiet := 0; quiet < 3; {
			quiet++
			if m.turn() {
				quiet = 0
			}
			m.registerAll()
		}
		m.check()
	})
}

func newMembersModel(t *rapid.T) *membersModel {
	m := &membersModel{t: t, directory: NewDirectory(), shards: map[uint64]*modelShard{}, up: map[string]bool{}}
	initial := rapid.IntRange(1, 3).Draw(t, "initial")
	var names []string
	for i := range initial {
		name := fmt.Sprintf("n%d", i+1)
		names = append(names, name)
		m.must(directoryCommand{RegisterNode: m.node(name, uint64(i+1), "first")})
		m.up[name] = true
	}
	m.shards[DirectoryShard] = newModelShard(initial)
	all := Default("all", "p")
	m.create(&all, names)
	listed := Default("listed", "p")
	listed.Replicas = names
	m.create(&listed, names)
	return m
}

func newModelShard(replicas int) *modelShard {
	s := &modelShard{data: map[uint64]bool{}, caught: map[uint64]bool{}}
	for id := uint64(1); id <= uint64(replicas); id++ {
		s.raft.Voters = append(s.raft.Voters, id)
		s.data[id], s.caught[id] = true, true
	}
	return s
}

func (m *membersModel) node(name string, id uint64, data string) *RegisterNode {
	n := scriptNode(name, name+"-"+data)
	n.ReplicaID = id
	return &n
}

func (m *membersModel) create(d *Definition, names []string) {
	data, err := d.MarshalJSON()
	if err != nil {
		m.t.Fatal(err)
	}
	r := m.must(directoryCommand{CreateGroup: &CreateGroup{Group: d.Group, DefinitionJSON: data, Members: names}})
	m.shards[r.Group.ShardID] = newModelShard(len(names))
}

func (m *membersModel) must(c directoryCommand) DirectoryResult {
	r := m.directory.Apply(encodeDirectoryCommand(c))
	if r.Refused != 0 {
		m.t.Fatalf("refused: %s", r.Detail)
	}
	return r
}

func (m *membersModel) try(c directoryCommand) DirectoryResult {
	return m.directory.Apply(encodeDirectoryCommand(c))
}

// move is something that happens.
func (m *membersModel) move() {
	names := slices.Sorted(maps.Keys(m.up))
	name := rapid.SampledFrom(names).Draw(m.t, "node")
	switch rapid.IntRange(0, 9).Draw(m.t, "what") {
	case 0:
		if next := fmt.Sprintf("n%d", len(names)+1); len(names) < 6 {
			n := m.node(next, 0, "first")
			if m.try(directoryCommand{AddNode: &AddNode{Name: next, APIAddress: n.APIAddress, RaftAddress: n.RaftAddress, DataID: n.DataID}}).Refused == 0 {
				m.up[next] = true
			}
		}
	case 1:
		m.remove(name)
	case 2:
		m.replace(name)
	case 3:
		m.redefine(names)
	case 4:
		// A crash: only as many as leave each shard its quorum, since the test is of
		// changes and not of disasters.
		m.up[name] = !m.up[name]
		if !m.quorums() {
			m.up[name] = true
		}
	case 5:
		m.late()
	default:
		m.registerAll()
		m.turn()
	}
}

// remove asks for it as the service does: refused when it would never be done.
func (m *membersModel) remove(name string) {
	s := m.directory.State()
	for _, g := range s.Groups() {
		if d, err := g.Definition(); err != nil || slices.Contains(d.Replicas, name) {
			return
		}
	}
	m.try(directoryCommand{LeaveNode: &LeaveNode{Name: name, Stay: rapid.Bool().Draw(m.t, "stay")}})
}

// replace wipes a node's disk, and makes it anew; not while a shard needs it.
func (m *membersModel) replace(name string) {
	n, known := m.directory.State().Node(name)
	was := m.up[name]
	m.up[name] = false
	if !known || n.Leaving || !m.quorums() {
		m.up[name] = was
		return
	}
	fresh := m.node(name, 0, fmt.Sprintf("disk%d", m.directory.State().Revision))
	m.must(directoryCommand{ReplaceNode: &ReplaceNode{Name: name, APIAddress: fresh.APIAddress, RaftAddress: fresh.RaftAddress, DataID: fresh.DataID}})
	for _, v := range m.views() {
		for _, member := range v.Members {
			if member.Node == name && member.Leaving {
				m.shards[v.ShardID].data[member.ReplicaID] = false
			}
		}
	}
	m.up[name] = was
}

func (m *membersModel) redefine(names []string) {
	s := m.directory.State()
	g, _ := s.Group("listed")
	d := Default("listed", "p")
	d.Replicas = []string{}
	for _, name := range names {
		if rapid.Bool().Draw(m.t, "on "+name) {
			d.Replicas = append(d.Replicas, name)
		}
	}
	if _, err := s.Placement(&d); err != nil || len(d.Replicas) == 0 {
		return
	}
	data, err := d.MarshalJSON()
	if err != nil {
		m.t.Fatal(err)
	}
	m.must(directoryCommand{SetDefinition: &SetDefinition{Group: "listed", Expect: g.Version, Version: g.Version + 1, DefinitionJSON: data}})
}

// quorums tells whether every shard has a healthy one.
func (m *membersModel) quorums() bool {
	for _, v := range m.views() {
		if v.Raft == nil {
			return false
		}
	}
	return true
}

// registerAll lets nodes that are up and joined register.
func (m *membersModel) registerAll() {
	for _, n := range m.directory.State().Nodes() {
		directory := m.shards[DirectoryShard]
		if n.Joining && m.up[n.Name] && (slices.Contains(directory.raft.Learners, n.ReplicaID) || slices.Contains(directory.raft.Voters, n.ReplicaID)) {
			m.must(directoryCommand{RegisterNode: &RegisterNode{Name: n.Name, APIAddress: n.APIAddress, RaftAddress: n.RaftAddress, DataID: n.DataID}})
		}
	}
}

// views are what a driver would see.
func (m *membersModel) views() []*ShardView {
	s := m.directory.State()
	views := []*ShardView{}
	for _, g := range s.Groups() {
		views = append(views, s.MembersOf(g))
	}
	views = append(views, s.DirectoryMembers())
	for _, v := range views {
		shard := m.shards[v.ShardID]
		v.Reports = map[uint64]ReplicaReport{}
		for _, member := range v.Members {
			if !m.up[member.Node] || member.Leaving || slices.Contains(shard.raft.Removed, member.ReplicaID) {
				continue
			}
			if _, made := shard.data[member.ReplicaID]; !made {
				if !member.Joined {
					m.t.Fatalf("shard %d: replica %d has no data and is no new one", v.ShardID, member.ReplicaID)
				}
				shard.data[member.ReplicaID] = true
			}
			report := ReplicaReport{}
			if shard.caught[member.ReplicaID] {
				report.Applied = 100
			}
			v.Reports[member.ReplicaID] = report
			// It takes until somebody looks again.
			if slices.Contains(shard.raft.Learners, member.ReplicaID) {
				shard.caught[member.ReplicaID] = true
			}
		}
		m.elect(v, shard)
	}
	return views
}

// elect makes the shard have a leader if it has a quorum.
func (m *membersModel) elect(v *ShardView, shard *modelShard) {
	healthy := 0
	leads := func(id uint64) bool {
		_, answers := v.Reports[id]
		return answers && shard.data[id] && slices.Contains(shard.raft.Voters, id)
	}
	for _, id := range shard.raft.Voters {
		if leads(id) {
			healthy++
		}
	}
	if healthy < quorum(len(shard.raft.Voters)) {
		return
	}
	if !leads(shard.raft.Leader) {
		for _, id := range shard.raft.Voters {
			if leads(id) {
				shard.raft.Leader = id
			}
		}
	}
	raft := shard.raft
	raft.Voters, raft.Learners, raft.Removed = slices.Clone(raft.Voters), slices.Clone(raft.Learners), slices.Clone(raft.Removed)
	v.Raft = &raft
}

// turn is one turn of the driver, which may be interrupted anywhere. It tells
// whether anything was to be done.
func (m *membersModel) turn() bool {
	acted := false
	for _, v := range m.views() {
		step := NextStep(v)
		if !step.Acts() {
			continue
		}
		acted = true
		m.stale = append(m.stale, staleStep{v.ShardID, step})
		m.do(v.ShardID, step)
		if rapid.IntRange(0, 9).Draw(m.t, "interrupted") == 0 {
			return true
		}
	}
	return acted
}

// late does a step that was decided some time ago.
func (m *membersModel) late() {
	if len(m.stale) == 0 {
		return
	}
	s := rapid.SampledFrom(m.stale).Draw(m.t, "late")
	m.do(s.shard, s.step)
}

// do is what the step does to Raft, as dragonboat would, or to the directory.
func (m *membersModel) do(shardID uint64, s Step) {
	shard := m.shards[shardID]
	raft := &shard.raft
	is := func(id uint64) bool { return id == s.ReplicaID }
	before := slices.Clone(raft.Voters)
	switch s.Kind {
	case StepPlan:
		m.try(directoryCommand{PlanMember: &PlanMember{ShardID: shardID, Node: s.Node}})
	case StepRecord:
		m.try(directoryCommand{PromoteMember: &PromoteMember{ShardID: shardID, ReplicaID: s.ReplicaID}})
	case StepDrop:
		m.try(directoryCommand{DropMember: &DropMember{ShardID: shardID, ReplicaID: s.ReplicaID}})
	case StepTransfer:
		if slices.Contains(raft.Voters, s.Target) {
			raft.Leader = s.Target
		}
	case StepAdd, StepPromote, StepRemove:
		// Ordered changes: one that was decided for other members is refused.
		if s.ConfigID != raft.ConfigID || s.Kind != StepRemove && slices.Contains(raft.Removed, s.ReplicaID) {
			return
		}
		raft.ConfigID++
		raft.Learners = slices.DeleteFunc(raft.Learners, is)
		raft.Voters = slices.DeleteFunc(raft.Voters, is)
		switch s.Kind {
		case StepAdd:
			m.checkAddress(shardID, s)
			raft.Learners = append(raft.Learners, s.ReplicaID)
		case StepPromote:
			raft.Voters = append(raft.Voters, s.ReplicaID)
		case StepRemove:
			raft.Removed = append(raft.Removed, s.ReplicaID)
		}
	}
	if !slices.Equal(before, raft.Voters) {
		m.checkQuorum(shardID, s)
	}
}

// checkAddress: Raft knows one replica an address.
func (m *membersModel) checkAddress(shardID uint64, s Step) {
	for _, v := range m.views() {
		for _, member := range v.Members {
			if v.ShardID == shardID && v.Raft != nil && member.Node == s.Node && member.ReplicaID != s.ReplicaID && v.inRaft(member.ReplicaID) {
				m.t.Fatalf("shard %d: %s, and replica %d is there still", shardID, s.Text(), member.ReplicaID)
			}
		}
	}
}

func (m *membersModel) checkQuorum(shardID uint64, s Step) {
	for _, v := range m.views() {
		if v.ShardID == shardID && v.Raft == nil {
			m.t.Fatalf("shard %d has lost its quorum by: %s; voters %v, up %v", shardID, s.Text(), m.shards[shardID].raft.Voters, m.up)
		}
	}
	shard := m.shards[shardID]
	if s.Kind == StepPromote && !shard.caught[s.ReplicaID] {
		m.t.Fatalf("shard %d: replica %d got a vote and has nothing", shardID, s.ReplicaID)
	}
}

// check says what is not as it should be in the end.
func (m *membersModel) check() {
	for _, v := range m.views() {
		if s := NextStep(v); s.Kind != StepDone {
			m.t.Fatalf("shard %d is not done: %s: %s\nmembers %+v\nraft %+v", v.ShardID, s.Kind, s.Text(), v.Members, v.Raft)
		}
		var voting []string
		for _, member := range v.Members {
			if slices.Contains(v.Raft.Voters, member.ReplicaID) {
				voting = append(voting, member.Node)
			}
		}
		slices.Sort(voting)
		if wanted := slices.Sorted(slices.Values(v.Wanted)); !slices.Equal(voting, wanted) || len(v.Raft.Voters) != len(voting) {
			m.t.Fatalf("shard %d: %v vote, and %v should; raft %+v", v.ShardID, voting, wanted, v.Raft)
		}
	}
	if !m.directory.State().MembersSettled() {
		m.t.Fatal("the directory does not take the members for settled")
	}
}
