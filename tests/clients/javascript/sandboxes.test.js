// The life of a sandbox: create, list, connect, time, kill, and what is said when it cannot be.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { AuthenticationError, E2B, NotFoundError, Sandbox, SandboxError, TimeoutError } from '@e2b/code-interpreter'
import { Sandbox as BaseSandbox } from 'e2b'
import { address, headers, until, whereSupported } from './support.js'

const metadata = { walk: `javascript-${process.pid}` }
let sandbox

before(async () => {
  sandbox = await Sandbox.create({ metadata, envs: { CITY: 'Ulm' }, timeoutMs: 120_000 })
})
after(() => sandbox?.kill())

test('a sandbox runs and says what it is', async () => {
  assert.equal(await sandbox.isRunning(), true)
  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.deepEqual(info.metadata, metadata)
  assert.equal(info.state, 'running')
  const life = info.endAt - info.startedAt
  assert.ok(Math.abs(life - 120_000) < 2000, `${life}`)
  assert.equal((await sandbox.commands.run('echo $CITY')).stdout, 'Ulm\n')
})

test('sandboxes are listed by metadata, in pages', async () => {
  const more = await Sandbox.create({ metadata, timeoutMs: 120_000 })
  try {
    const pages = Sandbox.list({ query: { metadata, state: ['running'] }, limit: 1 })
    const found = []
    while (pages.hasNext) found.push(...(await pages.nextItems()))
    assert.deepEqual(found.map((one) => one.sandboxId).sort(), [sandbox.sandboxId, more.sandboxId].sort())
  } finally {
    await more.kill()
  }
})

test('a program joins a sandbox by its id', async () => {
  await sandbox.files.write('note.txt', 'left here')
  const joined = await Sandbox.connect(sandbox.sandboxId)
  assert.equal(await joined.files.read('note.txt'), 'left here')
})

test('a client with its own options makes sandboxes of either kind', async () => {
  const { E2B_API_KEY: apiKey, E2B_API_URL: apiUrl, E2B_SANDBOX_URL: sandboxUrl } = process.env
  const client = new E2B({ apiKey, apiUrl, sandboxUrl })
  const plain = await BaseSandbox.create({ timeoutMs: 60_000 })
  const bound = await client.Sandbox.connect(plain.sandboxId)
  assert.equal((await bound.commands.run('echo hello')).stdout, 'hello\n')
  assert.equal(await bound.kill(), true)
})

test('the end of a sandbox is moved, and it ends there', async () => {
  const short = await Sandbox.create({ timeoutMs: 60_000 })
  await short.setTimeout(1_000)
  await until(async () => !(await short.isRunning()), 'the end of its time')
})

test('a killed sandbox is gone for everybody', async () => {
  const killed = await Sandbox.create({ timeoutMs: 60_000 })
  assert.equal(await killed.kill(), true)
  assert.equal(await killed.isRunning(), false)
  assert.equal(await Sandbox.kill(killed.sandboxId), false)
  await assert.rejects(Sandbox.connect(killed.sandboxId), NotFoundError)
  await assert.rejects(killed.commands.run('true'), (error) => {
    assert.ok(error instanceof NotFoundError || error instanceof TimeoutError, `${error}`)
    return true
  })
  await assert.rejects(killed.runCode('1'), SandboxError)
})

test('a wrong key and an unknown template are told apart', async () => {
  await assert.rejects(Sandbox.create({ apiKey: `e2b_${'0'.repeat(40)}` }), AuthenticationError)
  await assert.rejects(Sandbox.create('no-such-template'), /no-such-template/)
})

test('a server in a sandbox answers on its port', async () => {
  await sandbox.files.write('www/index.html', '<h1>from inside</h1>')
  await sandbox.commands.run('exec python3 -m http.server 3000 --directory www', { background: true })
  const url = `${address(sandbox, 3000)}/index.html`
  const answer = await until(async () => {
    const response = await fetch(url, { headers: headers(sandbox, 3000) })
    return response.status === 200 && response
  }, 'the server')
  assert.equal(await answer.text(), '<h1>from inside</h1>')
  if (!process.env.E2B_API_URL) return
  const inPath = process.env.E2B_API_URL.replace('/api', `/${sandbox.sandboxId}/3000/index.html`)
  assert.equal(await (await fetch(inPath)).text(), '<h1>from inside</h1>')
})

test('a paused sandbox goes on where it was', async (t) => {
  const paused = await Sandbox.create({ timeoutMs: 60_000 })
  try {
    await paused.runCode('x = 41')
    if ((await whereSupported(t, () => paused.pause())) === undefined) return
    assert.equal((await paused.getInfo()).state, 'paused')
    const resumed = await Sandbox.connect(paused.sandboxId)
    assert.equal((await resumed.runCode('x + 1')).text, '42')
  } finally {
    await paused.kill()
  }
})

test('a snapshot has the files', async (t) => {
  await sandbox.files.write('kept.txt', 'kept')
  const snapshot = await whereSupported(t, () => sandbox.createSnapshot())
  if (snapshot === undefined) return
  const copy = await Sandbox.create(snapshot.snapshotId, { timeoutMs: 60_000 })
  try {
    assert.equal(await copy.files.read('kept.txt'), 'kept')
  } finally {
    await copy.kill()
    await Sandbox.deleteSnapshot(snapshot.snapshotId)
  }
})
