"""`Problem -> Plan` by OR-Tools: the door to that library. `planner.solve.pick.solve` chooses."""
