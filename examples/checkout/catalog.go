package checkout

import "fmt"

// Product is something the shop sells. Prices are in cents.
type Product struct {
	SKU   string
	Name  string
	Price int64
	// Stock before the first order.
	Stock int64
}

// Catalog is what the shop sells. The last three are scarce, so that some orders
// must fail for want of stock.
var Catalog = []Product{
	{"BK-1001", "Consensus on Transaction Commit, annotated", 2400, 600},
	{"BK-1002", "A Field Guide to Log Files", 1850, 600},
	{"BK-1003", "The Night Shift Cookbook", 2999, 600},
	{"KB-2001", "Keyboard, tenkeyless", 8900, 400},
	{"KB-2002", "Keyboard, split", 18900, 250},
	{"MS-2101", "Mouse, left-handed", 4550, 400},
	{"MN-2201", "Monitor, 27 inch", 32900, 250},
	{"MN-2202", "Monitor arm", 7900, 350},
	{"CB-3001", "Cable, 0.5 m", 390, 4000},
	{"CB-3002", "Cable, 2 m", 690, 4000},
	{"CB-3003", "Cable, 10 m", 1890, 2000},
	{"SW-3101", "Switch, 8 ports", 5400, 350},
	{"SW-3102", "Switch, 24 ports", 24900, 120},
	{"SD-3201", "SSD, 1 TB", 9900, 700},
	{"SD-3202", "SSD, 4 TB", 33900, 250},
	{"RM-3301", "Memory, 16 GiB", 6200, 900},
	{"RM-3302", "Memory, 64 GiB", 23800, 300},
	{"MG-4001", "Mug, enamel", 1290, 1500},
	{"TS-4002", "T-shirt, M", 1990, 900},
	{"TS-4003", "T-shirt, XL", 1990, 900},
	{"DE-4101", "Desk mat", 2490, 600},
	{"LP-4201", "Desk lamp", 5990, 300},
	{"UP-5001", "UPS, 900 VA", 15900, 25},
	{"CH-5002", "Chair, mesh", 44900, 18},
	{"HS-5003", "Headset, limited edition", 27900, 12},
}

// Customers is the number of customers; CustomerID names them from 0.
const Customers = 160

// CustomerID names customer n.
func CustomerID(n int) string { return fmt.Sprintf("cust-%04d", n) }

// CreditLimit is what customer n may owe, in cents: every eighth has little, so
// that some orders must fail for want of credit.
func CreditLimit(n int) int64 {
	if n%8 == 7 {
		return 30_000
	}
	return 1_500_000
}
