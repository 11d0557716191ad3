// Files: all forms of content, folders, events, signed addresses.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { after, before, test } from 'node:test'
import { FileNotFoundError, InvalidArgumentError, NotFoundError, Sandbox } from '@e2b/code-interpreter'
import { headers, until } from './support.js'

const ENVD = 49983
let sandbox

before(async () => {
  sandbox = await Sandbox.create()
})
after(() => sandbox?.kill())

test('content is written and read in every form', async () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i)
  const written = await sandbox.files.write('forms/text.txt', 'Grüße')
  assert.deepEqual([written.name, written.path, written.type], ['text.txt', '/home/user/forms/text.txt', 'file'])
  await sandbox.files.write('forms/buffer', bytes.buffer)
  await sandbox.files.write('forms/blob', new Blob([bytes]))
  await sandbox.files.write('forms/stream', new Blob([bytes]).stream())
  assert.equal(await sandbox.files.read('forms/text.txt'), 'Grüße')
  assert.deepEqual(await sandbox.files.read('forms/buffer', { format: 'bytes' }), bytes)
  const blob = await sandbox.files.read('forms/blob', { format: 'blob' })
  assert.deepEqual(new Uint8Array(await blob.arrayBuffer()), bytes)
  const stream = await sandbox.files.read('forms/stream', { format: 'stream' })
  assert.deepEqual(new Uint8Array(await new Response(stream).arrayBuffer()), bytes)
})

test('a large file comes back as it went', async () => {
  const bytes = randomBytes(20_000_000)
  await sandbox.files.write('large.bin', new Blob([bytes]))
  const hash = createHash('sha256')
  for await (const piece of await sandbox.files.read('large.bin', { format: 'stream' })) hash.update(piece)
  assert.equal(hash.digest('hex'), createHash('sha256').update(bytes).digest('hex'))
})

test('gzip and octet-stream make no difference', async () => {
  const text = 'squeeze me '.repeat(10_000)
  for (const how of [{ gzip: true }, { useOctetStream: true }, { gzip: true, useOctetStream: true }]) {
    await sandbox.files.write('how.txt', text, how)
    assert.equal(await sandbox.files.read('how.txt', { gzip: how.gzip }), text)
  }
})

test('several files are written at once', async () => {
  const written = await sandbox.files.writeFiles([
    { path: 'many/a.txt', data: 'a' },
    { path: 'many/deep/b.txt', data: 'b' },
  ])
  assert.deepEqual(written.map((one) => one.path), ['/home/user/many/a.txt', '/home/user/many/deep/b.txt'])
  const listed = await sandbox.files.list('many', { depth: 2 })
  assert.deepEqual(listed.map((one) => [one.path.slice('/home/user/many/'.length), one.type]), [
    ['a.txt', 'file'],
    ['deep', 'dir'],
    ['deep/b.txt', 'file'],
  ])
})

test('files and folders are looked at, moved and removed', async () => {
  assert.equal(await sandbox.files.makeDir('tree/inner'), true)
  assert.equal(await sandbox.files.makeDir('tree/inner'), false)
  await sandbox.files.write('tree/one.txt', 'one')
  const info = await sandbox.files.getInfo('tree/one.txt')
  assert.deepEqual([info.size, info.mode, info.owner, info.permissions], [3, 0o644, 'user', '-rw-r--r--'])
  await sandbox.files.rename('tree/one.txt', 'tree/inner/two.txt')
  assert.equal(await sandbox.files.exists('tree/one.txt'), false)
  assert.equal(await sandbox.files.exists('tree/inner/two.txt'), true)
  await sandbox.files.remove('tree')
  assert.equal(await sandbox.files.exists('tree'), false)
})

test('files of other users are theirs', { skip: process.env.ONE_USER }, async () => {
  await sandbox.files.write('/root/secret.txt', 'of root', { user: 'root' })
  assert.equal((await sandbox.files.getInfo('/root/secret.txt', { user: 'root' })).owner, 'root')
  assert.equal(await sandbox.files.read('/root/secret.txt', { user: 'root' }), 'of root')
})

test('what is missing or wrong is said, but not when it is removed', async () => {
  await assert.rejects(sandbox.files.read('missing.txt'), FileNotFoundError)
  await assert.rejects(sandbox.files.list('missing'), NotFoundError)
  await sandbox.files.remove('missing')
  await assert.rejects(sandbox.files.read('/home/user'), InvalidArgumentError)
})

test('a folder is watched, with what is made in it later', async () => {
  await sandbox.files.makeDir('watched')
  const events = []
  let ended = false
  const handle = await sandbox.files.watchDir('watched', (event) => events.push(`${event.type} ${event.name}`), {
    recursive: true,
    onExit: () => (ended = true),
  })
  await sandbox.files.write('watched/deep/a.txt', 'a')
  await sandbox.files.rename('watched/deep/a.txt', 'watched/b.txt')
  await sandbox.files.remove('watched/b.txt')
  await until(() => events.includes('remove b.txt'), `a removal in ${events}`)
  for (const event of ['create deep', 'create deep/a.txt', 'write deep/a.txt', 'rename deep/a.txt', 'create b.txt'])
    assert.ok(events.includes(event), `${event} in ${events}`)
  await handle.stop()
  await until(() => ended, 'onExit')
})

test('signed addresses give and take a file without the SDK', async () => {
  const routing = headers(sandbox, ENVD)
  await sandbox.files.write('signed.txt', 'signed content')
  const url = await sandbox.downloadUrl('signed.txt', { useSignatureExpiration: 60 })
  assert.equal(await (await fetch(url, { headers: routing })).text(), 'signed content')
  const part = await fetch(url, { headers: { ...routing, Range: 'bytes=7-' } })
  assert.deepEqual([part.status, await part.text()], [206, 'content'])
  const forged = new URL(url)
  forged.searchParams.set('path', 'other.txt')
  assert.equal((await fetch(forged, { headers: routing })).status, 401)
  const form = new FormData()
  form.append('file', new Blob(['by form']), 'ignored')
  const uploaded = await fetch(await sandbox.uploadUrl('by-form.txt'), { method: 'POST', headers: routing, body: form })
  assert.equal(uploaded.status, 200)
  assert.equal(await sandbox.files.read('by-form.txt'), 'by form')
})
