package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
	"github.com/cohort-tx/cohort/participant"
)

// maxAnswerBytes bounds one answer of a node: a page of 10,000 scanned keys or
// of log entries stays far below.
const maxAnswerBytes = 64 << 20

// retryElections makes requests that only look or declare wait out an election,
// which takes about a second: what these services answer UNAVAILABLE to was not
// begun.
// A request for a checkpoint carries a token, so that it may be sent again even
// when nobody knows what became of it.
const retryElections = `{"methodConfig":[{
	"name":[{"service":"cohort.v1.Cluster"},{"service":"cohort.v1.Nodes"},{"service":"cohort.v1.Log"},
		{"service":"cohort.v1.Transactions","method":"Outcome"},{"service":"cohort.v1.Transactions","method":"ListTransactions"},
		{"service":"cohort.v1.Transactions","method":"BeginRead"},
		{"service":"cohort.v1.Checkpoints","method":"ListCheckpoints"},{"service":"cohort.v1.Checkpoints","method":"VerifyCheckpoint"},
		{"service":"cohort.v1.Checkpoints","method":"ExportCheckpoint"}],
	"retryPolicy":{"maxAttempts":5,"initialBackoff":"0.2s","maxBackoff":"1s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}},{
	"name":[{"service":"cohort.v1.Checkpoints","method":"CreateCheckpoint"}],
	"retryPolicy":{"maxAttempts":5,"initialBackoff":"0.2s","maxBackoff":"1s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE","UNKNOWN"]}}]}`

// keepaliveEvery and keepaliveTimeout find a node that hangs while something
// long, which no --timeout bounds, waits for it.
const (
	keepaliveEvery   = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// connect makes a connection that uses the first address that answers.
func (e *environment) connect() (*grpc.ClientConn, error) {
	nodes := manual.NewBuilderWithScheme("cohort")
	var state resolver.State
	for _, addr := range e.addrs {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: addr, ServerName: addr})
	}
	nodes.InitialState(state)
	protection, err := e.transport.credentials()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("cohort:///nodes",
		grpc.WithResolvers(nodes),
		grpc.WithTransportCredentials(protection),
		grpc.WithDefaultServiceConfig(retryElections),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveEvery, Timeout: keepaliveTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", e.addrs, err)
	}
	return conn, nil
}

// askCluster asks one question of the operator's API, within --timeout.
func askCluster[Req, Resp any](e *environment, cmd *cobra.Command, ask func(pb.ClusterClient, context.Context, *Req, ...grpc.CallOption) (*Resp, error), question *Req) (*Resp, error) {
	conn, err := e.connect()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := e.request(cmd)
	defer cancel()
	return ask(pb.NewClusterClient(conn), ctx, question)
}

// dial makes a client of the SDK, for what runs transactions or attaches.
func (e *environment) dial() (*participant.Client, error) {
	protection, err := e.transport.option()
	if err != nil {
		return nil, err
	}
	return participant.Dial(strings.Join(e.addrs, ","), protection, participant.WithPatience(e.timeout))
}
