/** The messages and services of claudepool.v1. */
export * from "./gen/claudepool/v1/catalog_service_pb.js";
export * from "./gen/claudepool/v1/chain_pb.js";
export * from "./gen/claudepool/v1/context_service_pb.js";
export * from "./gen/claudepool/v1/errors_pb.js";
export * from "./gen/claudepool/v1/event_pb.js";
export * from "./gen/claudepool/v1/operator_service_pb.js";
export * from "./gen/claudepool/v1/pool_service_pb.js";
export * from "./gen/claudepool/v1/scope_pb.js";
export * from "./gen/claudepool/v1/settings_pb.js";
export * from "./gen/claudepool/v1/status_pb.js";
export * from "./gen/claudepool/v1/task_pb.js";
