// `E2B_SANDBOX_URL` is set where one plain address serves all sandboxes, by routing headers; without it the native protocol
// is spoken, with real names and TLS. `ONE_USER`, where it is set, says why sandboxes have one user there.

const base = process.env.E2B_SANDBOX_URL

// What a program's own fetch() needs to reach a port: its URL, and headers where the address alone names no sandbox.
export const address = (sandbox, port) => base ?? `https://${sandbox.getHost(port)}`

export const headers = (sandbox, port) =>
  base ? { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port) } : {}

export async function until(condition, what, milliseconds = 20_000) {
  const deadline = Date.now() + milliseconds
  for (;;) {
    const found = await condition()
    if (found) return found
    if (Date.now() > deadline) throw new Error(`${what} did not come true in ${milliseconds} ms`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

// What the call gives; undefined where the manager has no such thing and says so.
export async function whereSupported(test, call) {
  try {
    return await call()
  } catch (error) {
    if (!String(error).includes('not supported by this manager')) throw error
    test.skip(`the manager said: ${error.message}`)
    return undefined
  }
}
