package postgres

// SharedServer is the tests' PostgreSQL, also for those outside of the package.
var SharedServer = &shared
