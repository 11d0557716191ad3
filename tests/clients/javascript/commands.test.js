// Commands and terminals.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { AuthenticationError, CommandExitError, Sandbox, TimeoutError } from '@e2b/code-interpreter'
import { until } from './support.js'

let sandbox

before(async () => {
  sandbox = await Sandbox.create()
})
after(() => sandbox?.kill())

test('a command has outputs and an exit code', async () => {
  const lines = []
  const done = await sandbox.commands.run('echo out; echo err >&2; pwd; echo $NAME', {
    cwd: '/tmp',
    envs: { NAME: 'Ada' },
    onStdout: (text) => lines.push(text),
  })
  assert.deepEqual([done.exitCode, done.stdout, done.stderr], [0, 'out\n/tmp\nAda\n', 'err\n'])
  assert.equal(lines.join(''), done.stdout)
})

test('a failing command throws what it printed', async () => {
  await assert.rejects(sandbox.commands.run('echo some; exit 3'), (error) => {
    assert.ok(error instanceof CommandExitError)
    assert.deepEqual([error.exitCode, error.stdout], [3, 'some\n'])
    return true
  })
  await assert.rejects(sandbox.commands.run('no-such-program'), (error) => error.exitCode === 127)
})

test('commands run as other users', { skip: process.env.ONE_USER }, async () => {
  assert.equal((await sandbox.commands.run('whoami', { user: 'root' })).stdout, 'root\n')
  assert.equal((await sandbox.commands.run('sudo whoami')).stdout, 'root\n')
})

test('output outside of ASCII is whole', async () => {
  const text = 'Grüße, 世界 🌍 '.repeat(2000)
  await sandbox.files.write('text.txt', text)
  assert.equal((await sandbox.commands.run('cat text.txt')).stdout, text)
})

test('a command in the background is listed, joined and killed', async () => {
  const seen = []
  const handle = await sandbox.commands.run('while true; do echo tick; sleep 0.1; done', {
    background: true,
    onStdout: (text) => seen.push(text),
  })
  await until(() => seen.length > 2, 'ticks')
  assert.ok((await sandbox.commands.list()).some((one) => one.pid === handle.pid))
  await handle.disconnect()
  const again = []
  const joined = await sandbox.commands.connect(handle.pid, { onStdout: (text) => again.push(text) })
  await until(() => again.length > 2, 'ticks after joining')
  assert.equal(await joined.kill(), true)
  await assert.rejects(joined.wait(), CommandExitError)
  assert.equal(await sandbox.commands.kill(handle.pid), false)
})

test('a command reads what is sent to it until its input ends', async () => {
  const handle = await sandbox.commands.run('while read line; do echo "got $line"; done; echo end', {
    background: true,
    stdin: true,
  })
  await sandbox.commands.sendStdin(handle.pid, 'one\n')
  await until(() => handle.stdout.includes('got one'), 'an answer')
  await sandbox.commands.sendStdin(handle.pid, 'two\n')
  await sandbox.commands.closeStdin(handle.pid)
  assert.equal((await handle.wait()).stdout, 'got one\ngot two\nend\n')
})

test('a command that takes too long is given up', async () => {
  await assert.rejects(sandbox.commands.run('sleep 60', { timeoutMs: 500 }), TimeoutError)
})

test('an unknown user is refused', async () => {
  await assert.rejects(sandbox.commands.run('true', { user: 'nobody-of-that-name' }), AuthenticationError)
})

test('many commands run at once', async () => {
  const done = await Promise.all(Array.from({ length: 50 }, (_, i) => sandbox.commands.run(`echo ${i}`)))
  assert.deepEqual(done.map((one) => one.stdout), Array.from({ length: 50 }, (_, i) => `${i}\n`))
})

test('a terminal has a size, takes keys and ends', async () => {
  let seen = ''
  const decoder = new TextDecoder()
  const terminal = await sandbox.pty.create({
    cols: 90,
    rows: 20,
    envs: { NAME: 'Ada' },
    onData: (data) => (seen += decoder.decode(data, { stream: true })),
  })
  const type = (text) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(text))
  await type('stty size; echo "name: $NAME"\n')
  await until(() => seen.includes('20 90') && seen.includes('name: Ada'), `20 90 in ${seen}`)
  await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 30 })
  await type('stty size\n')
  await until(() => seen.includes('30 100'), '30 100')
  await type('sleep 60\n')
  await until(() => seen.includes('sleep 60'), 'the echo')
  await type('\u0003')
  await type('echo "after: $?"\n')
  await until(() => seen.includes('after: 130'), 'Ctrl-C')
  await type('exit 5\n')
  await assert.rejects(terminal.wait(), (error) => error.exitCode === 5)
  const other = await sandbox.pty.create({ cols: 80, rows: 24, onData: () => {} })
  assert.equal(await sandbox.pty.kill(other.pid), true)
  await assert.rejects(other.wait(), CommandExitError)
})

test('git clones, commits and pushes', async () => {
  await sandbox.commands.run('git init --bare --initial-branch=main origin.git')
  const at = '/home/user/work'
  await sandbox.git.clone('/home/user/origin.git', { path: at })
  await sandbox.files.write(`${at}/file.txt`, 'content')
  await sandbox.git.add(at)
  await sandbox.git.commit(at, 'first', { authorName: 'Ada', authorEmail: 'ada@example.com' })
  await sandbox.commands.run('git branch -M main', { cwd: at })
  await sandbox.git.push(at, { remote: 'origin', branch: 'main', setUpstream: true })
  const log = await sandbox.commands.run('git --git-dir=origin.git log --format=%an:%s')
  assert.equal(log.stdout, 'Ada:first\n')
  const status = await sandbox.git.status(at)
  assert.deepEqual([status.currentBranch, status.isClean], ['main', true])
})
