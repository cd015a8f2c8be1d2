"""A client without generated code: lists the services by reflection, checks health, and calls
Backfill.

Usage: python.py ADDRESS ROOM_ID EVENT_ID
"""

import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


def main(address, room_id, event_id):
    with grpc.insecure_channel(address) as channel:
        reflection = ProtoReflectionDescriptorDatabase(channel)
        services = sorted(reflection.get_services())
        print("services:", ", ".join(services))
        for name in ("HistoryService", "IngestService", "KeyService"):
            assert f"backscroll.history.v1.{name}" in services, name

        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "backscroll.history.v1.HistoryService"):
            status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
            assert status == health_pb2.HealthCheckResponse.SERVING, (service, status)
        print("health: SERVING")

        pool = descriptor_pool.DescriptorPool(reflection)
        method = pool.FindServiceByName("backscroll.history.v1.HistoryService").FindMethodByName(
            "Backfill"
        )
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        backfill = channel.unary_unary(
            "/backscroll.history.v1.HistoryService/Backfill",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        answer = backfill(request(room_id=room_id, event_ids=[event_id], limit=5))
        print("backfill:", list(answer.event_ids))
        assert answer.event_ids[0] == event_id
        try:
            backfill(request(room_id=room_id, event_ids=[event_id]))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
            print("without a limit:", error.code().name, error.details())
        else:
            raise AssertionError("a request without a limit was answered")


main(*sys.argv[1:])
