package strictyaml

// Suggest returns the candidate that was probably meant by word, or "" when
// none is near: at most one edit for each three characters, and at least one,
// that leaves something of the word.
func Suggest(word string, candidates []string) string {
	// Longer words are near nothing; the bound keeps the table below small.
	if len(word) > 64 {
		return ""
	}
	best, bestDistance := "", min(1+max(1, len(word)/3), len(word))
	for _, c := range candidates {
		if d := distance(word, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts insertions, deletions, replacements and swaps of neighbours
// (optimal string alignment; R. A. Wagner and R. Lowrance, JACM 22(2), 1975).
func distance(a, b string) int {
	table := make([][]int, len(a)+1)
	for i := range table {
		table[i] = make([]int, len(b)+1)
		table[i][0] = i
	}
	for j := range table[0] {
		table[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(table[i-1][j]+1, table[i][j-1]+1, table[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, table[i-2][j-2]+1)
			}
			table[i][j] = d
		}
	}
	return table[len(a)][len(b)]
}
