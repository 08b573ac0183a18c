package bench

import (
	"math"
	"math/rand/v2"
)

// zipf draws ranks of [0, n), rank k with a probability proportional to
// 1/(k+1)^skew; a skew of 0 is uniform. It is safe for concurrent use, each caller
// with its own source.
//
// The method is rejection-inversion (Hörmann and Derflinger, 1996), which needs no
// table and takes any skew, 1 and those below it included, as the usual ones of
// such workloads are (0.99).
type zipf struct {
	n    uint64
	skew float64
	// hFirst and hLast bound the integral of the density's hat; shortcut is where
	// a draw is accepted without another look.
	hFirst, hLast, shortcut float64
}

func newZipf(n uint64, skew float64) *zipf {
	z := &zipf{n: n, skew: skew}
	z.hFirst = z.h(1.5) - 1
	z.hLast = z.h(float64(n) + 0.5)
	z.shortcut = 2 - z.hInverse(z.h(2.5)-math.Pow(2, -skew))
	return z
}

func (z *zipf) draw(r *rand.Rand) uint64 {
	if z.skew == 0 || z.n == 1 {
		return r.Uint64N(z.n)
	}
	for {
		u := z.hLast + r.Float64()*(z.hFirst-z.hLast)
		x := z.hInverse(u)
		k := min(max(math.Floor(x+0.5), 1), float64(z.n))
		if k-x <= z.shortcut || u >= z.h(k+0.5)-math.Pow(k, -z.skew) {
			return uint64(k) - 1
		}
	}
}

// h is the integral of x^-skew, as (x^(1-skew) - 1)/(1-skew), which has a limit at
// a skew of 1.
func (z *zipf) h(x float64) float64 {
	logX := math.Log(x)
	return expm1Ratio((1-z.skew)*logX) * logX
}

func (z *zipf) hInverse(x float64) float64 {
	t := max(x*(1-z.skew), -1)
	return math.Exp(log1pRatio(t) * x)
}

// expm1Ratio is (e^x - 1)/x, and log1pRatio log(1+x)/x, also near 0.
func expm1Ratio(x float64) float64 {
	if math.Abs(x) > 1e-8 {
		return math.Expm1(x) / x
	}
	return 1 + x/2*(1+x/3)
}

func log1pRatio(x float64) float64 {
	if math.Abs(x) > 1e-8 {
		return math.Log1p(x) / x
	}
	return 1 - x*(0.5-x/3)
}
