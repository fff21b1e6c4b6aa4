# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Chromium without a window, spoken to over its pipe: no driver and no package."""

import base64
import json
import os
import resource
import shutil
import subprocess

import pytest

needs_browser = pytest.mark.skipif(
    not shutil.which('chromium')
    or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY,
    reason='needs chromium on the PATH (on Debian apt-get install chromium), and no limit of '
    'addresses (ulimit -v), of which a browser reserves more than it uses',
)
OPTIONS = [
    '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-sync',
    '--disable-background-networking', '--hide-scrollbars', '--remote-debugging-pipe',
]  # fmt: skip


class Browser:
    """One tab. What the console says of the page that is open is in ``complaints``.

    Args:
        profile (Path): A folder for Chromium's own files.
    """

    def __init__(self, profile):
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Chromium reads commands from file 3 and writes answers to file 4.
        script = f'exec chromium "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ['bash', '-c', script, 'bash', *OPTIONS, f'--user-data-dir={profile}'],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in), os.close(theirs_out)
        self._unread, self._events, self._count, self._tab = b'', [], 0, {}
        target = self._call('Target.createTarget', url='about:blank')['targetId']
        session = self._call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        self._tab = dict(sessionId=session)
        for domain in ('Page', 'Runtime', 'Log'):
            self._call(f'{domain}.enable')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        os.close(self._in), os.close(self._out)

    def _receive(self):
        while b'\0' not in self._unread:
            part = os.read(self._in, 1 << 20)
            assert part, 'chromium ended'
            self._unread += part
        message, _, self._unread = self._unread.partition(b'\0')
        return json.loads(message)

    def _call(self, method, **params):
        self._count += 1
        message = dict(id=self._count, method=method, params=params, **self._tab)
        os.write(self._out, json.dumps(message).encode() + b'\0')
        while (answer := self._receive()).get('id') != self._count:
            self._events.append(answer)
        assert 'error' not in answer, answer
        return answer['result']

    def open(self, address, width, height=800):
        """Open a page in a window of a size, and wait for it and its pictures."""
        self._call(
            'Emulation.setDeviceMetricsOverride',
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self._events.clear()
        self._call('Page.navigate', url=address)
        while not any(event['method'] == 'Page.loadEventFired' for event in self._events):
            self._events.append(self._receive())
        self.evaluate(
            'Promise.allSettled([...document.images]'
            ".map(image => { image.loading = 'eager'; return image.decode() }))"
        )

    def evaluate(self, script):
        """Evaluate JavaScript, and return its value."""
        answer = self._call(
            'Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True
        )
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    @property
    def complaints(self):
        """list[dict]: Errors and warnings in the console, and exceptions."""
        said = {'Runtime.consoleAPICalled', 'Runtime.exceptionThrown', 'Log.entryAdded'}
        return [event['params'] for event in self._events if event['method'] in said]

    def screenshot(self, path):
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self._call('Page.captureScreenshot')['data']))
