package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// membersEvery is how often a command that waits looks at the members.
const membersEvery = 300 * time.Millisecond

type membersView struct {
	// Settled: nothing is under way.
	Settled bool         `json:"settled"`
	Nodes   []memberView `json:"nodes"`
	Changes []stepView   `json:"changes"`
}

type memberView struct {
	Name     string `json:"name"`
	Addr     string `json:"addr"`
	RaftAddr string `json:"raft_addr"`
	State    string `json:"state"`
	// Membership is member, joining or leaving.
	Membership string `json:"membership"`
	// Directory is voter or follower.
	Directory       string              `json:"directory"`
	DirectoryLeader bool                `json:"directory_leader"`
	Replicas        []memberReplicaView `json:"replicas"`
}

type memberReplicaView struct {
	Group     string `json:"group"`
	ReplicaID uint64 `json:"replica_id"`
	Role      string `json:"role"`
}

// stepView is a step about the members of a shard, or what one waits for.
type stepView struct {
	Group     string `json:"group"` // empty for the directory
	Step      string `json:"step"`
	Node      string `json:"node"`
	ReplicaID uint64 `json:"replica_id"`
	Text      string `json:"text"`
}

func viewMembers(answer *pb.ListMembersResponse) membersView {
	view := membersView{Settled: answer.Settled, Nodes: []memberView{}, Changes: viewSteps(answer.Changes)}
	for _, n := range answer.Nodes {
		member := memberView{
			Name: n.Name, Addr: n.Addr, RaftAddr: n.RaftAddr, State: n.State, Membership: n.Membership,
			Directory: n.Directory, DirectoryLeader: n.DirectoryLeader, Replicas: []memberReplicaView{},
		}
		for _, r := range n.Replicas {
			member.Replicas = append(member.Replicas, memberReplicaView{Group: r.Group, ReplicaID: r.ReplicaId, Role: r.Role})
		}
		view.Nodes = append(view.Nodes, member)
	}
	return view
}

func viewSteps(changes []*pb.ShardChange) []stepView {
	views := make([]stepView, 0, len(changes))
	for _, c := range changes {
		views = append(views, stepView{Group: c.Group, Step: c.Step, Node: c.Node, ReplicaID: c.ReplicaId, Text: c.Text})
	}
	return views
}

func (c stepView) line() string {
	shard := "group " + c.Group
	if c.Group == "" {
		shard = "directory"
	}
	switch c.Step {
	case "wait":
		return fmt.Sprintf("%s: waits: %s", shard, c.Text)
	case "blocked":
		return fmt.Sprintf("%s: BLOCKED: %s", shard, c.Text)
	}
	return fmt.Sprintf("%s: %s", shard, c.Text)
}

func (v membersView) table(w *tabwriter.Writer) {
	fmt.Fprintln(w, "NODE\tADDR\tSTATE\tMEMBERSHIP\tDIRECTORY\tREPLICAS")
	for _, n := range v.Nodes {
		replicas := make([]string, len(n.Replicas))
		for i, r := range n.Replicas {
			replicas[i] = r.Group
			if r.Role != "voter" {
				replicas[i] += " (" + r.Role + ")"
			}
		}
		directory := n.Directory
		if n.DirectoryLeader {
			directory = "leader"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Addr, n.State, n.Membership, directory, orDash(strings.Join(replicas, ", ")))
	}
	if v.Settled {
		return
	}
	fmt.Fprintln(w, "\nunder way:")
	for _, c := range v.Changes {
		fmt.Fprintf(w, "  %s\n", c.line())
	}
}

func newNodeList(env *environment) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "list [--wait]",
		Short: "Nodes, the replicas they hold, and what changes",
		Long: `Show the nodes of the cluster, the replicas they hold, and the changes that are
under way, each with its next step or what it waits for.

With --wait it returns when nothing is under way any more, and tells the steps on
standard error meanwhile. Exit code 1 when that did not come within --timeout.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait {
				return env.awaitMembers(cmd)
			}
			answer, err := env.members(cmd)
			if err != nil {
				return err
			}
			view := viewMembers(answer)
			return env.print(view, view.table)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when nothing is under way")
	return cmd
}

func (e *environment) members(cmd *cobra.Command) (*pb.ListMembersResponse, error) {
	conn, err := e.connect()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := e.request(cmd)
	defer cancel()
	return pb.NewNodesClient(conn).ListMembers(ctx, &pb.ListMembersRequest{})
}

// awaitMembers tells the steps until nothing is under way, then shows the result.
// The node that is asked may be the one that leaves: another one of --addr is
// asked then.
func (e *environment) awaitMembers(cmd *cobra.Command) error {
	conn, err := e.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := e.longRequest(cmd)
	defer cancel()
	said := map[string]bool{}
	for {
		answer, err := pb.NewNodesClient(conn).ListMembers(ctx, &pb.ListMembersRequest{})
		switch {
		case err == nil && answer.Settled:
			view := viewMembers(answer)
			return e.print(view, view.table)
		case err == nil:
			for _, c := range viewSteps(answer.Changes) {
				if line := c.line(); !said[line] {
					said[line] = true
					fmt.Fprintln(e.stderr, line)
				}
			}
		case status.Code(err) != codes.Unavailable:
			return err
		}
		select {
		case <-time.After(membersEvery):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return errors.New("it is not done within --timeout; it goes on, and 'cohort node list' shows how far it is")
			}
			return ctx.Err()
		}
	}
}
