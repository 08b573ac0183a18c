package configs_test

import (
	"fmt"

	"github.com/cohort-tx/cohort/configs"
)

func ExampleParse() {
	_, err := configs.Parse("node.yaml", []byte("name: n1\ndata_dir: /data\napi: {address: \"0.0.0.0:7070\"}\n"))
	fmt.Println(err)
	// Output:
	// node.yaml:3:6: api.advertise: api.address `0.0.0.0:7070` names no host that others could reach; write the one they should use
	// node.yaml:3:16: api.address: `0.0.0.0:7070` is reachable from other machines without TLS; give `tls`, listen on 127.0.0.1, or write `insecure: true` if the network is trusted
}
