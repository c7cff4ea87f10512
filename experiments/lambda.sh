#!/bin/sh
# The weight of distillation, on the built-in scenes: all 18 runs, for DVC's queue.
# Made from lambda.yaml by `python -m tools.sweeps commands`. `make sweeps` queues
# the same, but what is done already, runs it and writes the tables.
set -e
dvc exp run --queue --name lambda.l0.gain.s0 -S seed=0 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=0
dvc exp run --queue --name lambda.l0.25.gain.s0 -S seed=0 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=0.25
dvc exp run --queue --name lambda.l0.5.gain.s0 -S seed=0 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=0.5
dvc exp run --queue --name lambda.l1.gain.s0 -S seed=0 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=1
dvc exp run --queue --name lambda.l2.gain.s0 -S seed=0 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=2
dvc exp run --queue --name lambda.l4.gain.s0 -S seed=0 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=4
dvc exp run --queue --name lambda.l0.gain.s1 -S seed=1 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=0
dvc exp run --queue --name lambda.l0.25.gain.s1 -S seed=1 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=0.25
dvc exp run --queue --name lambda.l0.5.gain.s1 -S seed=1 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=0.5
dvc exp run --queue --name lambda.l1.gain.s1 -S seed=1 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=1
dvc exp run --queue --name lambda.l2.gain.s1 -S seed=1 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=2
dvc exp run --queue --name lambda.l4.gain.s1 -S seed=1 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=4
dvc exp run --queue --name lambda.l0.gain.s2 -S seed=2 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=0
dvc exp run --queue --name lambda.l0.25.gain.s2 -S seed=2 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=0.25
dvc exp run --queue --name lambda.l0.5.gain.s2 -S seed=2 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=0.5
dvc exp run --queue --name lambda.l1.gain.s2 -S seed=2 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=1
dvc exp run --queue --name lambda.l2.gain.s2 -S seed=2 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=2
dvc exp run --queue --name lambda.l4.gain.s2 -S seed=2 -S cam.source=student -S refine.method=pamr -S refine.guide=dark -S refine.depth=false -S model.dgf2=gated -S model.exposure=gain -S distill.lambda=4
# dvc queue start -j 1
