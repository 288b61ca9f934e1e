# Names for what the scripts do.
KIND ?= wide
NODES ?= 24

.PHONY: test cluster cluster-down

test:
	./test

# A Kubernetes to play in; prints what to `eval`.
cluster:
	@scripts/cluster up $(KIND) --nodes $(NODES)

cluster-down:
	@scripts/cluster down
