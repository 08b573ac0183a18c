package bench

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Without it a skewed load would not be as skewed as its report says.
func TestZipfDrawsByRank(t *testing.T) {
	const n, draws = 20, 200_000
	for _, skew := range []float64{0, 0.5, 0.99, 1, 1.5} {
		z, r := newZipf(n, skew), rand.New(rand.NewPCG(1, 2))
		var sum float64
		for k := range n {
			sum += math.Pow(float64(k+1), -skew)
		}
		var counts [n]float64
		for range draws {
			counts[z.draw(r)]++ // beyond n it panics
		}
		for k, got := range counts {
			p := math.Pow(float64(k+1), -skew) / sum
			// Five standard deviations: the source is fixed, so this is no chance.
			if want := p * draws; math.Abs(got-want) > 5*math.Sqrt(want*(1-p)) {
				t.Errorf("skew %v: rank %d was drawn %.0f times, want about %.0f", skew, k, got, want)
			}
		}
	}
	if got := newZipf(1, 0.99).draw(rand.New(rand.NewPCG(1, 2))); got != 0 {
		t.Errorf("of one key, key %d was drawn", got)
	}
}
