// Package cohortv1 is Cohort's wire API, generated from the .proto files beside
// it. They are its documentation.
package cohortv1

//go:generate sh -c "cd ../.. && protoc --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-go-grpc=$(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative cohort/v1/transactions.proto cohort/v1/participants.proto cohort/v1/cluster.proto cohort/v1/checkpoints.proto cohort/v1/nodes.proto"
