package bench

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkWorkload runs each workload in process and over gRPC, for benchstat:
// run it with -benchtime 1x, and -count for several runs. Ratios are to raw entries
// in the same run.
func BenchmarkWorkload(b *testing.B) {
	for _, w := range []Workload{Add, Transfer, Write, Read, Call} {
		for _, via := range []Via{ViaAPI, ViaGRPC} {
			for _, inFlight := range []int{1, 64, 512} {
				b.Run(fmt.Sprintf("%s/%s/in-flight=%d", w, via, inFlight), func(b *testing.B) {
					r, err := Run(b.Context(), Config{Workload: w, Via: via, InFlight: inFlight, CompareRaw: true, Duration: 6 * time.Second}, nil)
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(r.Throughput, "tx/s")
					b.ReportMetric(r.Latency.P50Seconds*1000, "p50-ms")
					b.ReportMetric(r.Latency.P99Seconds*1000, "p99-ms")
					b.ReportMetric(r.RatioToRaw.Throughput, "throughput-ratio")
					b.ReportMetric(r.RatioToRaw.P50, "p50-ratio")
				})
			}
		}
	}
}
