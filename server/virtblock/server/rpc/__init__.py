# SPDX-License-Identifier: Apache-2.0
"""The wire: gRPC servicers that decode, make ONE call of the core, and encode. The only floor that knows protobuf and
grpc.
"""
