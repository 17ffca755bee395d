"""The port at which Serve's replicas call each other, kept where the rest of the cluster listens."""

import ray
from ray.serve._private import replica

EVERYWHERE, LOOPBACK = "[::]", "127.0.0.1"


def keep_on_loopback() -> None:
    """In a cluster on loopback, have this replica's port there too; to be called while the replica is constructed.

    What is behind it unpickles. It asks for the cluster's token first, but Serve 2.60 opens it to every interface
    (`[::]`) and has no setting for that.
    """
    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    add_port = replica.add_port_to_grpc_server

    def add_local_port(server: object, address: str) -> int:
        return int(add_port(server, address.replace(EVERYWHERE, LOOPBACK)))

    replica.add_port_to_grpc_server = add_local_port
