// Command inventory runs the inventory service of the checkout example.
package main

import "github.com/cohort-tx/cohort/examples/checkout"

func main() { checkout.Main(checkout.Inventory()) }
