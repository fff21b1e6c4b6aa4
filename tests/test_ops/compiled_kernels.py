# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Compiles the Triton kernels for GPUs that are not there, and prints what became of them.

A line of JSON for each kernel, type and GPU; the last one has too few registers on purpose.
"""

import itertools
import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmdmformer.ops import triton_dwconv

PROGRAMS = Path(triton.__file__).parent / 'backends/nvidia/bin'
WARP = 32
CONSTANTS = dict(
    NUM_TAPS=3 * 3 + 5 * 5 + 7 * 7,
    HAS_BIAS=True,
    RELU=False,
    ACC=tl.float32,
    BLOCK_H=triton_dwconv._BLOCK_H,
    BLOCK_W=triton_dwconv._BLOCK_W,
)
KERNELS = dict(
    forward=triton_dwconv._convolve_kernel, weight_gradient=triton_dwconv._weight_gradient_kernel
)
POINTERS = ('x', 'weight', 'bias', 'out', 'grad')


def compile_kernel(kernel, dtype: str, capability: int, max_registers: int | None) -> dict:
    """Compile a kernel of which nothing is known but the types, and read what the GPU would run."""
    known = dict.fromkeys(POINTERS, f'*{dtype}') | dict(offsets='*i32', partial='*fp32')
    names = kernel.arg_names
    constants = {(names.index(name),): v for name, v in CONSTANTS.items() if name in names}
    types = {n: 'constexpr' if n in CONSTANTS else known.get(n, 'i32') for n in names}
    compiled = triton.compile(
        ASTSource(kernel, types, constants),
        target=GPUTarget('cuda', capability, WARP),
        options=dict(maxnreg=max_registers),
    )
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        usage = _run('cuobjdump', '-res-usage', file.name)
        assembly = _run('nvdisasm', '-c', file.name)
    found = dict(re.findall(r'(REG|STACK|LOCAL|SHARED):(\d+)', usage))
    return dict(
        registers=int(found['REG']),
        stack_bytes=int(found['STACK']) + int(found['LOCAL']),
        shared_bytes=int(found['SHARED']),
        spills=len(re.findall(r'\b(?:STL|LDL)\b', assembly)),
        warps=compiled.metadata.num_warps,
        loops=[len(loop) for loop in _loops(assembly)],
        multiply_adds=[sum('FFMA' in line for line in loop) for loop in _loops(assembly)],
    )


def _run(program: str, *args: str) -> str:
    return subprocess.run(
        [PROGRAMS / program, *args], capture_output=True, text=True, check=True
    ).stdout


def _loops(assembly: str) -> list[list[str]]:
    """The instructions of each loop that multiplies: from a label to a jump back to it."""
    instructions, labels, loops = [], {}, []
    for line in assembly.splitlines():
        if label := re.match(r'\s*(\.L_\w+):', line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r'\s*/\*[0-9a-f]+\*/\s+(.*?);', line):
            instructions.append(instruction[1])
            jump = re.search(r'\bBRA\b.*`\((\.L_\w+)\)', instruction[1])
            start = labels.get(jump[1], len(instructions)) if jump else len(instructions)
            loop = instructions[start:]
            if any('FFMA' in each for each in loop):
                loops.append(loop)
    return loops


def main() -> None:
    jobs = [(*job, None) for job in itertools.product(KERNELS, ('fp32', 'fp16', 'bf16'), (80, 90))]
    for name, dtype, capability, max_registers in [*jobs, ('forward', 'fp32', 80, 16)]:
        where = dict(kernel=name, dtype=dtype, capability=capability, max_registers=max_registers)
        result = compile_kernel(KERNELS[name], dtype, capability, max_registers)
        print(json.dumps(where | result), flush=True)


if __name__ == '__main__':
    main()
