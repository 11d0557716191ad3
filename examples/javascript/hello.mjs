// The SDK's JavaScript edition, without wildcard DNS and without a patch.
//
// Two variables send all requests of the SDK to one address. They replace E2B_DOMAIN:
//
//     export E2B_API_URL=http://$E2B_DOMAIN/kruise/api
//     export E2B_SANDBOX_URL=http://$E2B_DOMAIN
//
// Run it:
//
//     npm install
//     node hello.mjs
//
// It prints:
//
//     hello world
//     2
//     written from JavaScript

import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create()
try {
  const execution = await sandbox.runCode("print('hello world')\n1 + 1")
  console.log(execution.logs.stdout.join('').trim())
  console.log(execution.text)
  await sandbox.files.write('note.txt', 'written from JavaScript')
  const command = await sandbox.commands.run('cat note.txt')
  console.log(command.stdout)
} finally {
  await sandbox.kill()
}
