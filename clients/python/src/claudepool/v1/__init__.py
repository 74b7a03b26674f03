"""The messages and stubs of claudepool.v1; generated."""
from claudepool.v1.catalog_service_pb2 import *
from claudepool.v1.chain_pb2 import *
from claudepool.v1.context_service_pb2 import *
from claudepool.v1.errors_pb2 import *
from claudepool.v1.event_pb2 import *
from claudepool.v1.operator_service_pb2 import *
from claudepool.v1.pool_service_pb2 import *
from claudepool.v1.scope_pb2 import *
from claudepool.v1.settings_pb2 import *
from claudepool.v1.status_pb2 import *
from claudepool.v1.task_pb2 import *
from claudepool.v1.catalog_service_pb2_grpc import *
from claudepool.v1.context_service_pb2_grpc import *
from claudepool.v1.operator_service_pb2_grpc import *
from claudepool.v1.pool_service_pb2_grpc import *
