"""The section ``cluster`` of a config: where the work is done."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stillstack.config.section import Section


class ClusterConfig(Section):
    """Where the work is done. Nothing here changes the result."""

    kind: Literal["local", "address", "slurm", "ssh", "class"] = Field(
        "local",
        description="local: start workers on this machine; address: use a running cluster; slurm: "
        "submit jobs; ssh: start workers on hosts; class: any Dask cluster class (untested).",
    )
    address: str | None = Field(
        None,
        pattern=r"^[a-z]+://.+",
        examples=["tcp://host:8786"],
        description="Scheduler of a running cluster: 'tcp://host:8786' (kind: address).",
    )
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Worker processes of one thread each, over all machines; auto: one for each "
        "core of this machine.",
    )
    adapt: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="[fewest, most] workers, as the work asks for (kinds local, slurm and class).",
    )
    memory_limit: str = Field(
        "auto",
        pattern=r"^(auto|\d+(\.\d+)?\s*([kMGT]i?)?B)$",
        examples=["4GiB"],
        description="Memory of one worker: '4GiB'; auto: an equal part of the machine's, elsewhere "
        "what the plan says that it needs.",
    )
    walltime: str = Field(
        "01:00:00",
        pattern=r"^(\d+-)?\d+(:\d\d){0,2}$",
        description="Time limit of one job, as Slurm writes it (kind: slurm). Jobs that end are "
        "replaced while there is work.",
    )
    hosts: tuple[str, ...] = Field(
        (), description="Names of hosts; the first has the scheduler too (kind: ssh)."
    )
    class_: str | None = Field(
        None, alias="class", description="Import path of a cluster class (kind: class)."
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of the Dask cluster class: queue, account, cores and processes of a "
        "job for slurm; connect_options and remote_python for ssh.",
    )

    def __hash__(self) -> int:
        """Hash of a value whose options are a mapping."""
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _complete(self) -> ClusterConfig:
        needs = {"address": self.address, "ssh": self.hosts, "class": self.class_}
        for kind, value in needs.items():
            name = {"ssh": "hosts"}.get(kind, kind)
            if self.kind == kind and not value:
                example = {"address": ", such as tcp://host:8786"}.get(kind, "")
                raise ValueError(f"kind: {kind} needs {name}{example}")
            if self.kind != kind and value:
                raise ValueError(f"{name} belongs to kind: {kind}, but kind is {self.kind}")
        if self.kind == "address" and (self.workers, self.memory_limit) != ("auto", "auto"):
            raise ValueError("workers and memory_limit are set where the cluster is started")
        if self.options and self.kind in {"local", "address"}:
            raise ValueError(f"options belong to kinds slurm, ssh and class, not {self.kind}")
        self._check_adapt()
        return self

    def _check_adapt(self) -> None:
        if self.adapt is None:
            return
        if self.adapt[0] > self.adapt[1]:
            raise ValueError(f"adapt is {list(self.adapt)}: the fewest workers come first")
        if self.kind in {"address", "ssh"}:
            raise ValueError(f"kind: {self.kind} cannot adapt its number of workers")
        if self.options.get("processes", 1) != 1:
            raise ValueError(
                "adapt needs options.processes: 1; jobs of several workers start and stop for ever"
            )
