// A program of a user of the JavaScript SDK, who has set the variables that `kruise-agents proxy` prints.

import assert from 'node:assert/strict'
import { Sandbox } from '@e2b/code-interpreter'

const template = process.env.TEMPLATE
const sandbox = await Sandbox.create(template, { metadata: { walk: 'proxy' }, timeoutMs: 120_000 })
try {
  assert.equal((await sandbox.commands.run('echo hello')).stdout, 'hello\n')
  assert.equal((await sandbox.runCode('6 * 7')).text, '42')
  const content = 'x'.repeat(3_000_000)
  await sandbox.files.write('big.txt', content)
  assert.equal(await sandbox.files.read('big.txt'), content)
  const seen = []
  const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData: (data) => seen.push(data) })
  await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('echo $((6 * 7)); exit\n'))
  await terminal.wait()
  assert.match(Buffer.concat(seen).toString(), /42/)
  assert.equal((await sandbox.getInfo()).metadata.walk, 'proxy')
  const page = await Sandbox.list({ query: { metadata: { walk: 'proxy' } } }).nextItems()
  assert.ok(page.some((each) => each.sandboxId === sandbox.sandboxId))
  const again = await Sandbox.connect(sandbox.sandboxId)
  assert.equal((await again.commands.run('wc -c < big.txt')).stdout.trim(), '3000000')
  assert.equal(sandbox.getHost(3000), `3000-${sandbox.sandboxId}.${process.env.E2B_DOMAIN}`)
  assert.equal(await sandbox.isRunning(), true)
  if (process.env.REFUSED) {
    await assert.rejects(sandbox.getMetrics(), /needs a newer manager|no v2 routes/)
  }
  if (process.env.PAUSES) {
    await sandbox.pause()
    await Sandbox.connect(sandbox.sandboxId)
    assert.equal((await sandbox.commands.run('echo back')).stdout, 'back\n')
  }
} finally {
  assert.equal(await sandbox.kill(), true)
}
console.log('walked')
