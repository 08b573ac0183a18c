package participant

import (
	"context"

	"google.golang.org/grpc"

	cohortv1 "github.com/cohort-tx/cohort/api/cohort/v1"
)

// The unary methods of the API in the form that call takes.

func beginMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.BeginRequest, opts ...grpc.CallOption) (*cohortv1.BeginResponse, error) {
	return cohortv1.NewTransactionsClient(cc).Begin(ctx, in, opts...)
}

func getMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.GetRequest, opts ...grpc.CallOption) (*cohortv1.GetResponse, error) {
	return cohortv1.NewTransactionsClient(cc).Get(ctx, in, opts...)
}

func scanMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.ScanRequest, opts ...grpc.CallOption) (*cohortv1.ScanResponse, error) {
	return cohortv1.NewTransactionsClient(cc).Scan(ctx, in, opts...)
}

func callMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.CallRequest, opts ...grpc.CallOption) (*cohortv1.CallResponse, error) {
	return cohortv1.NewTransactionsClient(cc).Call(ctx, in, opts...)
}

func commitMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.CommitRequest, opts ...grpc.CallOption) (*cohortv1.CommitResponse, error) {
	return cohortv1.NewTransactionsClient(cc).Commit(ctx, in, opts...)
}

func abortMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.AbortRequest, opts ...grpc.CallOption) (*cohortv1.AbortResponse, error) {
	return cohortv1.NewTransactionsClient(cc).Abort(ctx, in, opts...)
}

func outcomeMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.OutcomeRequest, opts ...grpc.CallOption) (*cohortv1.OutcomeResponse, error) {
	return cohortv1.NewTransactionsClient(cc).Outcome(ctx, in, opts...)
}

func beginReadMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.BeginReadRequest, opts ...grpc.CallOption) (*cohortv1.BeginReadResponse, error) {
	return cohortv1.NewTransactionsClient(cc).BeginRead(ctx, in, opts...)
}

func endReadMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.EndReadRequest, opts ...grpc.CallOption) (*cohortv1.EndReadResponse, error) {
	return cohortv1.NewTransactionsClient(cc).EndRead(ctx, in, opts...)
}

func findStateMethod(ctx context.Context, cc grpc.ClientConnInterface, in *cohortv1.FindStateRequest, opts ...grpc.CallOption) (*cohortv1.FindStateResponse, error) {
	return cohortv1.NewParticipantsClient(cc).FindState(ctx, in, opts...)
}
