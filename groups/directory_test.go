package groups

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

// TestDirectoryScripts specifies the directory's rules. Every command is applied
// to two directories, one of which lives through a snapshot before each: both
// answer the same and end in the same bytes, or the replicas of a cluster would
// drift apart.
func TestDirectoryScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/directory", func(t *testing.T, path string) {
		d, restored := NewDirectory(), NewDirectory()
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			switch td.Cmd {
			case "state":
				return showState(d.State())
			case "placement":
				definition := Default("g", "p")
				for _, a := range td.CmdArgs {
					definition.Replicas = append(definition.Replicas, a.Key)
				}
				nodes, err := d.State().Placement(&definition)
				if err != nil {
					return err.Error() + "\n"
				}
				return fmt.Sprintln(nodes)
			}
			data := scriptCommand(t, td)
			fresh := NewDirectory()
			if err := fresh.Restore(restored.Snapshot()); err != nil {
				t.Fatal(err)
			}
			restored = fresh
			before := d.Snapshot()
			result := d.Apply(data)
			if again := restored.Apply(data); fmt.Sprintf("%+v", show(again)) != fmt.Sprintf("%+v", show(result)) {
				t.Fatalf("a restored replica answers %s, the other %s", show(again), show(result))
			}
			if !bytes.Equal(d.Snapshot(), restored.Snapshot()) {
				t.Fatalf("states differ:\n%s\n%s", d.Snapshot(), restored.Snapshot())
			}
			if !result.Changed && !bytes.Equal(before, d.Snapshot()) {
				t.Fatal("a command without effect changed the state")
			}
			return show(result)
		})
	})
}

func scriptCommand(t *testing.T, td *datadriven.TestData) []byte {
	arg := func(name string) (s string) {
		if td.HasArg(name) {
			td.ScanArgs(t, name, &s)
		}
		return s
	}
	number := func(name string) (n uint64) {
		if td.HasArg(name) {
			td.ScanArgs(t, name, &n)
		}
		return n
	}
	switch td.Cmd {
	case "register":
		name := td.CmdArgs[0].Key
		c := RegisterNode{Name: name, ReplicaID: number("id"), APIAddress: arg("api"), RaftAddress: arg("raft"), DataID: arg("data")}
		if c.APIAddress == "" {
			c.APIAddress = name + ":70"
		}
		if c.RaftAddress == "" {
			c.RaftAddress = name + ":71"
		}
		if c.DataID == "" {
			c.DataID = "disk-" + name
		}
		return encodeDirectoryCommand(directoryCommand{RegisterNode: &c})
	case "create":
		c := CreateGroup{Group: td.CmdArgs[0].Key, DefinitionJSON: []byte(arg("json"))}
		for _, a := range td.CmdArgs[1:] {
			if a.Key != "json" {
				c.Members = append(c.Members, a.Key)
			}
		}
		if n := number("size"); n > 0 {
			c.Members = c.Members[:len(c.Members)-1]
			c.DefinitionJSON = bytes.Repeat([]byte("x"), int(n))
		}
		return encodeDirectoryCommand(directoryCommand{CreateGroup: &c})
	case "set":
		return encodeDirectoryCommand(directoryCommand{SetDefinition: &SetDefinition{
			Group: td.CmdArgs[0].Key, Expect: number("expect"), Version: number("version"), DefinitionJSON: []byte(arg("json"))}})
	case "start":
		return encodeDirectoryCommand(directoryCommand{MarkStarted: &MarkStarted{ShardID: number("shard"), ReplicaID: number("replica")}})
	case "add":
		n := scriptNode(td.CmdArgs[0].Key, arg("data"))
		return encodeDirectoryCommand(directoryCommand{AddNode: &AddNode{Name: n.Name, APIAddress: n.APIAddress, RaftAddress: n.RaftAddress, DataID: n.DataID}})
	case "replace":
		n := scriptNode(td.CmdArgs[0].Key, arg("data"))
		return encodeDirectoryCommand(directoryCommand{ReplaceNode: &ReplaceNode{Name: n.Name, APIAddress: n.APIAddress, RaftAddress: n.RaftAddress, DataID: n.DataID}})
	case "leave":
		return encodeDirectoryCommand(directoryCommand{LeaveNode: &LeaveNode{Name: td.CmdArgs[0].Key, Stay: td.HasArg("stay")}})
	case "plan":
		return encodeDirectoryCommand(directoryCommand{PlanMember: &PlanMember{ShardID: number("shard"), Node: arg("node")}})
	case "promote":
		return encodeDirectoryCommand(directoryCommand{PromoteMember: &PromoteMember{ShardID: number("shard"), ReplicaID: number("replica")}})
	case "drop":
		return encodeDirectoryCommand(directoryCommand{DropMember: &DropMember{ShardID: number("shard"), ReplicaID: number("replica")}})
	case "raw":
		return []byte(td.Input)
	}
	t.Fatalf("unknown command %s", td.Cmd)
	return nil
}

func scriptNode(name, data string) RegisterNode {
	if data == "" {
		data = "disk-" + name
	}
	return RegisterNode{Name: name, APIAddress: name + ":70", RaftAddress: name + ":71", DataID: data}
}

func show(r DirectoryResult) string {
	var b strings.Builder
	if r.Refused != 0 {
		fmt.Fprintf(&b, "refused (%s): %s\n", r.Refused, r.Detail)
		return b.String()
	}
	if !r.Changed {
		b.WriteString("no change; ")
	}
	switch {
	case r.Node != nil:
		b.WriteString(showNode(r.Node))
	case r.Group != nil:
		b.WriteString(showGroup(r.Group))
	default:
		b.WriteString("ok\n")
	}
	return b.String()
}

func showNode(n *Node) string {
	flags := ""
	for _, f := range []struct {
		set  bool
		text string
	}{{n.Joining, ", joining"}, {n.Leaving, ", leaving"}, {n.Promoted, ", promoted"}} {
		if f.set {
			flags += f.text
		}
	}
	return fmt.Sprintf("node %s: replica %d, api %s, raft %s, data %s%s\n", n.Name, n.ReplicaID, n.APIAddress, n.RaftAddress, n.DataID, flags)
}

func showGroup(g *GroupRecord) string {
	var b strings.Builder
	fmt.Fprintf(&b, "group %s: shard %d, incarnation %d, version %d, %s\n", g.Name, g.ShardID, g.Incarnation, g.Version, g.DefinitionJSON)
	for _, m := range g.Members {
		fmt.Fprintf(&b, "  replica %d on %s", m.ReplicaID, m.Node)
		for _, f := range []struct {
			set  bool
			text string
		}{{m.Started, ", started"}, {m.Joined, ", joined"}, {m.Promoted, ", promoted"}, {m.Leaving, ", leaving"}} {
			if f.set {
				b.WriteString(f.text)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func showState(s *DirectoryState) string {
	var b strings.Builder
	fmt.Fprintf(&b, "revision %d\n", s.Revision)
	for _, n := range s.Nodes() {
		b.WriteString(showNode(n))
	}
	for _, g := range s.Groups() {
		b.WriteString(showGroup(g))
		fmt.Fprintf(&b, "  raft %v\n", s.RaftMembers(g))
	}
	for _, m := range s.retired {
		fmt.Fprintf(&b, "retired replica %d on %s\n", m.ReplicaID, m.Node)
	}
	for _, r := range s.removed {
		fmt.Fprintf(&b, "removed node %s: replica %d, data %s\n", r.Name, r.ReplicaID, r.DataID)
	}
	return b.String()
}

// TestDirectoryStateIsImmutable: a reader that holds a state sees it unchanged
// whatever is applied later.
func TestDirectoryStateIsImmutable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := NewDirectory()
		var held []*DirectoryState
		var then []string
		for range rapid.IntRange(1, 30).Draw(t, "commands") {
			d.Apply(anyDirectoryCommand(t))
			held = append(held, d.State())
			then = append(then, showState(d.State()))
		}
		for i, s := range held {
			if now := showState(s); now != then[i] {
				t.Fatalf("state %d was\n%sand is\n%s", i, then[i], now)
			}
		}
	})
}

// TestDirectoryNeverReusesIDs: whatever is sent, in any order, shard and replica
// ids only grow, and no command panics on an invariant.
func TestDirectoryNeverReusesIDs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := NewDirectory()
		shards, nodes := map[uint64]string{}, map[uint64]string{}
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			d.Apply(anyDirectoryCommand(t))
			for _, g := range d.State().Groups() {
				if was, ok := shards[g.ShardID]; ok && was != g.Name {
					t.Fatalf("shard %d was of %s, is of %s", g.ShardID, was, g.Name)
				}
				shards[g.ShardID] = g.Name
			}
			for _, n := range d.State().Nodes() {
				if was, ok := nodes[n.ReplicaID]; ok && was != n.Name {
					t.Fatalf("replica %d was %s, is %s", n.ReplicaID, was, n.Name)
				}
				nodes[n.ReplicaID] = n.Name
			}
		}
	})
}

func anyDirectoryCommand(t *rapid.T) []byte {
	node := rapid.SampledFrom([]string{"n1", "n2", "n3", "N4"})
	group := rapid.SampledFrom([]string{"a", "b", ""})
	small := rapid.Uint64Max(4)
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 5:
		return encodeDirectoryCommand(directoryCommand{ReplaceNode: &ReplaceNode{Name: node.Draw(t, "node"), APIAddress: "a" + node.Draw(t, "api") + ":1", RaftAddress: "a" + node.Draw(t, "raft") + ":2",
			DataID: rapid.SampledFrom([]string{"d", "e"}).Draw(t, "data")}})
	case 6:
		return encodeDirectoryCommand(directoryCommand{LeaveNode: &LeaveNode{Name: node.Draw(t, "node"), Stay: rapid.Bool().Draw(t, "stay")}})
	case 7:
		return encodeDirectoryCommand(directoryCommand{PlanMember: &PlanMember{ShardID: 99 + small.Draw(t, "shard"), Node: node.Draw(t, "node")}})
	case 8:
		shard := rapid.SampledFrom([]uint64{DirectoryShard, 100, 101}).Draw(t, "shard")
		return encodeDirectoryCommand(directoryCommand{PromoteMember: &PromoteMember{ShardID: shard, ReplicaID: rapid.SampledFrom([]uint64{1, 2, 3, 100, 101}).Draw(t, "replica")}})
	case 9:
		shard := rapid.SampledFrom([]uint64{DirectoryShard, 100, 101}).Draw(t, "shard")
		return encodeDirectoryCommand(directoryCommand{DropMember: &DropMember{ShardID: shard, ReplicaID: rapid.SampledFrom([]uint64{1, 2, 3, 100, 101}).Draw(t, "replica")}})
	case 0:
		name := node.Draw(t, "node")
		return encodeDirectoryCommand(directoryCommand{RegisterNode: &RegisterNode{Name: name, ReplicaID: small.Draw(t, "id"),
			APIAddress: node.Draw(t, "api") + ":1", RaftAddress: node.Draw(t, "raft") + ":2", DataID: "d"}})
	case 1:
		return encodeDirectoryCommand(directoryCommand{CreateGroup: &CreateGroup{Group: group.Draw(t, "group"), DefinitionJSON: []byte("{}"),
			Members: rapid.SliceOfN(node, 0, 3).Draw(t, "members")}})
	case 2:
		return encodeDirectoryCommand(directoryCommand{SetDefinition: &SetDefinition{Group: group.Draw(t, "group"), Expect: small.Draw(t, "expect"),
			Version: small.Draw(t, "version"), DefinitionJSON: []byte("{}")}})
	case 3:
		return encodeDirectoryCommand(directoryCommand{MarkStarted: &MarkStarted{ShardID: firstGroupShard + small.Draw(t, "shard"), ReplicaID: small.Draw(t, "replica")}})
	default:
		return rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "garbage")
	}
}

// TestDirectoryBounds: the directory stays small whatever is asked of it.
func TestDirectoryBounds(t *testing.T) {
	d := NewDirectory()
	register := func(i int) DirectoryResult {
		return d.Apply(encodeDirectoryCommand(directoryCommand{RegisterNode: &RegisterNode{Name: fmt.Sprintf("n%d", i),
			APIAddress: fmt.Sprintf("h:%d", i), RaftAddress: fmt.Sprintf("r:%d", i), DataID: "d"}}))
	}
	for i := range MaxNodes {
		if r := register(i); r.Refused != 0 {
			t.Fatal(r.Detail)
		}
	}
	if r := register(MaxNodes); r.Refused != RefusedFull {
		t.Errorf("node beyond the bound: %s", show(r))
	}
	create := func(i int) DirectoryResult {
		return d.Apply(encodeDirectoryCommand(directoryCommand{CreateGroup: &CreateGroup{Group: fmt.Sprintf("g%d", i), DefinitionJSON: []byte("{}"), Members: []string{"n1"}}}))
	}
	for i := range MaxGroups {
		if r := create(i); r.Refused != 0 {
			t.Fatal(r.Detail)
		}
	}
	if r := create(MaxGroups); r.Refused != RefusedFull {
		t.Errorf("group beyond the bound: %s", show(r))
	}
	all := Default("g", "p")
	if _, err := d.State().Placement(&all); err == nil || !strings.Contains(err.Error(), "list the nodes") {
		t.Errorf("placement on %d nodes: %v", MaxNodes, err)
	}
	if r := d.Apply(bytes.Repeat([]byte(" "), maxDirectoryCommandBytes+1)); r.Refused != RefusedMalformed {
		t.Errorf("command beyond the bound: %s", show(r))
	}
}

// TestDirectoryRestoreRefuses: a snapshot of a newer version or a damaged one is
// an error, and leaves the state alone.
func TestDirectoryRestoreRefuses(t *testing.T) {
	for data, want := range map[string]string{
		``:                        "snapshot",
		`{"format":2}`:            "format 2",
		`{"format":1,"colour":1}`: "colour",
		`{"format":1,"next_node_id":1,"next_group_id":100,"nodes":[{"name":"n1","replica_id":1}]}`:                     "replica id 1",
		`{"format":1,"next_node_id":9,"next_group_id":100,"nodes":[null]}`:                                             "twice or not at all",
		`{"format":1,"next_node_id":9,"next_group_id":100,"groups":[{"name":"g","shard_id":100,"next_replica_id":1}]}`: "shard 100",
	} {
		d := NewDirectory()
		before := d.State()
		if err := d.Restore([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", data, err, want)
		}
		if d.State() != before {
			t.Errorf("%s: the state changed", data)
		}
	}
}

// FuzzDirectoryApply: no entry stops a replica.
func FuzzDirectoryApply(f *testing.F) {
	f.Add(encodeDirectoryCommand(directoryCommand{RegisterNode: &RegisterNode{Name: "n2", APIAddress: "a:1", RaftAddress: "a:2", DataID: "d"}}))
	f.Add(encodeDirectoryCommand(directoryCommand{CreateGroup: &CreateGroup{Group: "g", DefinitionJSON: []byte("{}"), Members: []string{"n1"}}}))
	f.Add([]byte(`{"format":1,"mark_started":{"shard_id":100,"replica_id":1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := NewDirectory()
		d.Apply(encodeDirectoryCommand(directoryCommand{RegisterNode: &RegisterNode{Name: "n1", APIAddress: "n:1", RaftAddress: "n:2", DataID: "d"}}))
		d.Apply(data)
		again := NewDirectory()
		if err := again.Restore(d.Snapshot()); err != nil {
			t.Fatal(err)
		}
	})
}
