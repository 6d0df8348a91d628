# One line each: what happens is in scripts/.
.DEFAULT_GOAL := help
.PHONY: build run demo demo-nodes demo-fastcgi test bench lint guests release fmt clean help

build: ## build the host and the examples
	@scripts/build.sh
run: ## build all, and serve the examples on http://127.0.0.1:8080/
	@scripts/run.sh
demo: ## three agents under load: one is killed, replicas move, a new build rolls out
	@scripts/demo.sh
demo-nodes: ## three agents, components pinned to nodes: one is killed, and comes back to its place
	@scripts/demo-nodes.sh
demo-fastcgi: ## nginx in front of a realm, over FastCGI: a page, a POST, whom a component sees
	@scripts/demo-fastcgi.sh
test: ## run every test there is, and install what they need
	@scripts/test.sh
lint: ## check format, lints, licenses and sources
	@scripts/lint.sh
bench: ## measure realm beside its peers: docs/benchmarks.md
	@scripts/bench.sh $(BENCH)
guests: ## build the example components and those of the tests
	@scripts/guests.sh
release: ## build one static binary, by a profile of its own work
	@scripts/release.sh
fmt: ## format all code
	@scripts/fmt.sh
clean: ## remove what was built; keys and state in .realm stay
	@scripts/clean.sh
help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
