// Package checkout is a small shop on Cohort: three services, each with its own
// data, and a workflow that places an order as one transaction over the three.
//
//	inventory   reserves every item of the order, or refuses
//	payments    charges the customer within the credit limit, or refuses
//	orders      records the order
//
// Inventory comes in two kinds: one keeps its data in its store, the Warehouse in
// memory. So does payments: package bank has it on a PostgreSQL database.
//
// An order is at all three services or at none. The programs in the folders
// beside this package run each service and the workflow as processes of their
// own; group.yaml declares the group.
package checkout
