package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/txlog"
	"github.com/cohort-tx/cohort/txlog/command"
)

// hydrated is what the nodes made.
type hydrated struct {
	digest []byte
	nodes  []string
	result *pb.HydrateResult
	// definition is that of the state.
	definition []byte
}

// hydrate has every node make its files, and wants equal ones from a majority.
func (r *restoring) hydrate(ctx context.Context, plan *restorePlan, group string, incarnation uint64) (*hydrated, error) {
	r.phase(phaseHydrating)
	definition, err := plan.definition.MarshalJSON()
	if err != nil {
		return nil, statusOf(group, err)
	}
	req := &pb.HydrateRequest{
		Token: plan.token, SourceGroup: plan.source, Checkpoint: plan.checkpoint, Position: plan.position,
		Group: group, Incarnation: incarnation, DefinitionJson: definition,
	}
	if plan.importNode != "" {
		req.ImportToken, req.ImportNode = plan.token, plan.importNode
	}
	results := make(map[string]*pb.HydrateResult)
	failures := make(map[string]error)
	var mu sync.Mutex
	var nodes sync.WaitGroup
	for _, node := range plan.nodes {
		nodes.Go(func() {
			result, err := r.hydrateAt(ctx, node, req)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures[node] = err
				return
			}
			results[node] = result
		})
	}
	nodes.Wait()
	h, err := agree(group, plan.nodes, results, failures)
	if err != nil {
		return nil, err
	}
	h.definition = definition
	return h, nil
}

// agree picks the digest that a majority has.
func agree(group string, members []string, results map[string]*pb.HydrateResult, failures map[string]error) (*hydrated, error) {
	best := &hydrated{}
	for _, node := range members {
		if results[node] == nil {
			continue
		}
		same := &hydrated{digest: results[node].GetDigest(), result: results[node]}
		for _, other := range members {
			if results[other] != nil && bytes.Equal(results[other].GetDigest(), same.digest) {
				same.nodes = append(same.nodes, other)
			}
		}
		if len(same.nodes) > len(best.nodes) {
			best = same
		}
	}
	quorum := len(members)/2 + 1
	if len(best.nodes) >= quorum {
		return best, nil
	}
	var why []string
	for _, node := range members {
		switch {
		case failures[node] != nil:
			why = append(why, fmt.Sprintf("node %s: %s", node, plain(failures[node])))
		case !slices.Contains(best.nodes, node):
			why = append(why, fmt.Sprintf("node %s made another state from its files: verify them", node))
		}
	}
	return nil, failure(codes.FailedPrecondition, reasonNotRestored, []string{"group", group},
		"the state could be made on %d of %d nodes, and %d are needed; nothing was changed. %s", len(best.nodes), len(members), quorum, strings.Join(why, "; "))
}

func (r *restoring) hydrateAt(ctx context.Context, node string, req *pb.HydrateRequest) (*pb.HydrateResult, error) {
	return resultOf(ctx, r.Service, node, (*pb.HydrateProgress).GetResult, func(p *pb.HydrateProgress) { r.progress(node, p) },
		func(tell func(*pb.HydrateProgress)) error { return r.hydrateHere(ctx, req, tell) },
		func(ctx context.Context, peer pb.PeersClient) (grpc.ServerStreamingClient[pb.HydrateProgress], error) {
			return peer.Hydrate(ctx, req)
		})
}

// hydrateHere is this node's part.
func (s *Service) hydrateHere(ctx context.Context, req *pb.HydrateRequest, tell func(*pb.HydrateProgress)) error {
	last := time.Now()
	done, err := s.config.Hydrator.Hydrate(ctx, req, func(p txlog.HydrateProgress) {
		if time.Since(last) >= verifyTick {
			last = time.Now()
			tell(&pb.HydrateProgress{Phase: phaseHydrating, BytesDone: p.BytesDone, BytesTotal: p.BytesTotal, Position: p.Position})
		}
	})
	if err != nil {
		return restoreError(req.GetSourceGroup(), err)
	}
	tell(&pb.HydrateProgress{Result: hydratedToWire(&done)})
	return nil
}

func hydratedToWire(h *txlog.Hydrated) *pb.HydrateResult {
	return &pb.HydrateResult{
		Digest: slices.Clone(h.Digest[:]), Position: h.Meta.Position, Entries: h.Entries, Bytes: h.Bytes,
		Sections: sectionsToWire(h.Sections), LoadSeconds: h.Load.Seconds(), ReplaySeconds: h.Replay.Seconds(),
		ConfigVersion: h.Meta.ConfigVersion, TimeUnixNano: h.Meta.TimeUnixNano,
	}
}

func sectionsToWire(sections []command.Section) []*pb.SectionReport {
	out := make([]*pb.SectionReport, len(sections))
	for i, s := range sections {
		out[i] = &pb.SectionReport{Name: s.Name, Keys: s.Keys, Bytes: s.Bytes, Digest: slices.Clone(s.Digest[:])}
	}
	return out
}

// Hydrate is a node's part of a restore.
func (s *peersService) Hydrate(req *pb.HydrateRequest, stream grpc.ServerStreamingServer[pb.HydrateProgress]) error {
	var sending error
	err := s.hydrateHere(stream.Context(), req, func(p *pb.HydrateProgress) {
		if sending == nil {
			sending = stream.Send(p)
		}
	})
	return errors.Join(err, sending)
}
