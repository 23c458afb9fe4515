"""A headless Chromium driven through its DevTools pipe: no driver and no port."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

_FLAGS = (
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  '--remote-debugging-pipe',
)
# The browser reads commands from file descriptor 3 and answers on 4.
_EXEC = (
  'import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])'
)

PATIENCE = 120  # seconds for one answer, on a busy machine


class Page:
  """One page of a browser.

  Attributes:
    errors: what the console complained about, and exceptions that nobody caught.
    requests: the addresses that were asked for, without data: URIs.
  """

  def __init__(self, profile: pathlib.Path):
    theirs, self._write = os.pipe()
    self._read, ours = os.pipe()
    # Above 4, so that neither overwrites the other when they become 3 and 4.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs, ours)]
    self._log = (profile.parent / f'{profile.name}.log').open('wb')
    self._process = subprocess.Popen(
      [sys.executable, '-c', _EXEC, *map(str, ends), PROGRAM, *_FLAGS, f'--user-data-dir={profile}'],
      pass_fds=ends,
      stdout=self._log,
      stderr=self._log,
    )
    for end in (theirs, ours, *ends):
      os.close(end)
    self._buffer, self._number, self._session = b'', 0, None
    self.errors: list[str] = []
    self.requests: list[str] = []
    try:
      target = self.send('Target.createTarget', url='about:blank')['targetId']
      self._session = self.send('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
      for domain in ('Page', 'Runtime', 'Network', 'Log'):
        self.send(f'{domain}.enable')
    except BaseException:
      self.close()
      raise

  def send(self, method: str, **parameters: Any) -> dict[str, Any]:
    """Sends a command and returns its answer; events that come meanwhile are noted."""
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': parameters}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._write, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._next()
      if answer.get('id') == self._number:
        assert 'error' not in answer, answer
        return answer['result']

  def open(self, path: pathlib.Path) -> None:
    """Opens a file and waits until it is loaded."""
    self.send('Page.navigate', url=path.resolve().as_uri())
    deadline = time.monotonic() + PATIENCE
    while self.js('document.readyState + location.protocol') != 'completefile:':
      assert time.monotonic() < deadline, 'the page does not load'
      time.sleep(0.05)

  def js(self, expression: str) -> Any:
    """The value of an expression in the page."""
    result = self.send('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
    assert 'exceptionDetails' not in result, result['exceptionDetails']
    return result['result'].get('value')

  def size(self, width: int, height: int, *, mobile: bool = False) -> None:
    self.send('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=mobile)

  def scheme(self, name: str) -> None:
    """Prefers 'light' or 'dark'."""
    self.send('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': name}])

  def close(self) -> None:
    self._session = None
    with contextlib.suppress(OSError, AssertionError):
      self.send('Browser.close')
    try:
      self._process.wait(20)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    for end in (self._read, self._write):
      os.close(end)
    self._log.close()

  def _next(self) -> dict[str, Any]:
    while b'\0' not in self._buffer:
      assert select.select([self._read], [], [], PATIENCE)[0], 'the browser does not answer'
      received = os.read(self._read, 1 << 20)
      assert received, f'the browser ended: {pathlib.Path(self._log.name).read_text()[-2000:]}'
      self._buffer += received
    text, _, self._buffer = self._buffer.partition(b'\0')
    message = json.loads(text)
    self._note(message.get('method'), message.get('params', {}))
    return message

  def _note(self, method: str | None, event: dict[str, Any]) -> None:
    if method == 'Runtime.consoleAPICalled' and event['type'] in ('error', 'warning', 'assert'):
      self.errors.append(str(event['args']))
    elif method == 'Runtime.exceptionThrown':
      self.errors.append(str(event['exceptionDetails']))
    elif method == 'Log.entryAdded' and event['entry']['level'] in ('error', 'warning'):
      self.errors.append(event['entry']['text'])
    elif method == 'Network.requestWillBeSent' and not event['request']['url'].startswith('data:'):
      self.requests.append(event['request']['url'])
