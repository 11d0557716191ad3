// The code interpreter: streams, results, errors, contexts, time.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Sandbox, SandboxError, TimeoutError } from '@e2b/code-interpreter'
import { until } from './support.js'

let sandbox

before(async () => {
  sandbox = await Sandbox.create({ envs: { CITY: 'Ulm' } })
})
after(() => sandbox?.kill())

test('code has outputs, a value and state', async () => {
  const events = []
  const done = await sandbox.runCode("import sys\nprint('out')\nprint('err', file=sys.stderr)\nx = 40\nx + 2", {
    onStdout: (message) => events.push(['stdout', message.line]),
    onStderr: (message) => events.push(['stderr', message.line]),
    onResult: (result) => events.push(['result', result.text]),
  })
  assert.equal(done.text, '42')
  assert.deepEqual(done.logs, { stdout: ['out\n'], stderr: ['err\n'] })
  assert.deepEqual(events, [['stdout', 'out\n'], ['stderr', 'err\n'], ['result', '42']])
  assert.equal((await sandbox.runCode('x')).text, '40')
  assert.equal((await sandbox.runCode('x')).executionCount, done.executionCount + 2)
})

test('output arrives while the code runs', async () => {
  let arrived
  const first = new Promise((resolve) => (arrived = resolve))
  const running = sandbox.runCode(
    "import os, time\nprint('waiting', flush=True)\nwhile not os.path.exists('go'):\n    time.sleep(0.02)\n'gone'",
    { onStdout: arrived },
  )
  assert.equal((await first).line, 'waiting\n')
  await sandbox.files.write('go', '')
  assert.equal((await running).text, 'gone')
})

test('an error has its name, its text and a traceback', async () => {
  const seen = []
  const { error } = await sandbox.runCode('1 / 0', { onError: (one) => seen.push(one.name) })
  assert.deepEqual([error.name, error.value, seen], ['ZeroDivisionError', 'division by zero', ['ZeroDivisionError']])
  assert.match(error.traceback, /----> 1 1 \/ 0/)
})

test('results come in their forms', async () => {
  const { results } = await sandbox.runCode(
    [
      'from IPython.display import HTML, JSON, Latex, Markdown, SVG, display',
      "display(HTML('<b>bold</b>'), Markdown('**bold**'), Latex('$x$'), JSON({'a': 1}), SVG('<svg xmlns=\"u\"></svg>'))",
      'import matplotlib.pyplot as plt',
      'plt.plot([1, 2, 3])',
      'plt.show()',
      'import pandas as pd',
      "pd.DataFrame({'a': [1, 2]})",
    ].join('\n'),
  )
  const [html, markdown, latex, json, svg, figure, frame] = results
  assert.equal(html.html, '<b>bold</b>')
  assert.equal(markdown.markdown, '**bold**')
  assert.equal(latex.latex, '$x$')
  assert.deepEqual(json.json, { a: 1 })
  assert.match(svg.svg, /^<svg/)
  assert.equal(Buffer.from(figure.png, 'base64').subarray(1, 4).toString(), 'PNG')
  assert.ok(frame.isMainResult)
  assert.match(frame.html, /<table/)
  assert.deepEqual(frame.data, { a: [1, 2] })
})

test('variables are given for one run and for all', async () => {
  const read = "import os\n[os.environ.get('CITY'), os.environ.get('ONE')]"
  assert.equal((await sandbox.runCode(read, { envs: { ONE: '1' } })).text, "['Ulm', '1']")
  assert.equal((await sandbox.runCode(read)).text, "['Ulm', None]")
})

test('contexts keep their state apart', async () => {
  await sandbox.files.makeDir('place')
  const context = await sandbox.createCodeContext({ cwd: '/home/user/place', language: 'python' })
  assert.deepEqual([context.cwd, context.language], ['/home/user/place', 'python'])
  await sandbox.runCode('y = 1', { context })
  assert.equal((await sandbox.runCode('import os; os.getcwd(), y', { context })).text, "('/home/user/place', 1)")
  assert.equal((await sandbox.runCode('y')).error.name, 'NameError')
  assert.ok((await sandbox.listCodeContexts()).some((one) => one.id === context.id))
  await sandbox.restartCodeContext(context)
  assert.equal((await sandbox.runCode('y', { context })).error.name, 'NameError')
  await sandbox.removeCodeContext(context)
  assert.ok(!(await sandbox.listCodeContexts()).some((one) => one.id === context.id))
  await assert.rejects(sandbox.runCode('1', { context }), SandboxError)
})

test('code that takes too long is interrupted, and its context goes on', async () => {
  await sandbox.runCode('z = 5')
  await assert.rejects(sandbox.runCode('import time; time.sleep(60)', { timeoutMs: 500 }), TimeoutError)
  assert.equal((await sandbox.runCode('z')).text, '5')
})

test('much output arrives whole', async () => {
  const done = await sandbox.runCode("for i in range(2000): print(i, 'x' * 1000)")
  const text = done.logs.stdout.join('')
  assert.equal(text.length, Array.from({ length: 2000 }, (_, i) => `${i} ${'x'.repeat(1000)}\n`).join('').length)
  assert.match(text, /^0 x+\n1 x/)
})

test('top-level await works', async () => {
  assert.equal((await sandbox.runCode("import asyncio\nawait asyncio.sleep(0, 'awaited')")).text, 'awaited')
})

test('a language that is not there is refused', async () => {
  await assert.rejects(sandbox.runCode('1', { language: 'cobol' }), SandboxError)
})
