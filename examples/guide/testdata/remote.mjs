// Lets a test in another language drive the client of offline.mjs: one JSON command a line on standard input,
// {"id", "do", "args"}, one answer a line on standard output, {"id", "result"} or {"id", "error"}.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { createClient, offlinePlugin } from './offline.mjs'

// The clock, which a test can put ahead.
const RealDate = Date
let skew = 0
globalThis.Date = class extends RealDate {
   constructor(...args) { args.length ? super(...args) : super(RealDate.now() + skew) }
   static now() { return RealDate.now() + skew }
}

const require = createRequire(process.env.TIDEMARK_NODE_MODULES + '/')
const { io } = require('socket.io-client')
const [url] = process.argv.slice(2)
const socket = io(url, { transports: ['websocket'], reconnectionDelay: 50, reconnectionDelayMax: 200, autoConnect: false })
const app = offlinePlugin(createClient(socket, { timeout: 10000 }))
const models = {}
const seen = []
socket.on('service-event', e => seen.push(['service-event', e]))
socket.on('app-event', e => seen.push(['app-event', e]))

const commands = {
   model: async name => { models[name] = app.createOfflineModel(name); return true },
   connect: () => new Promise(resolve => { socket.once('connected', id => resolve(app.synced.then(() => id, e => Promise.reject(e)))); socket.connect() }),
   disconnect: async () => { socket.disconnect(); return true },
   // As connect, but without waiting for the scopes.
   reconnect: () => new Promise(resolve => { socket.once('connected', id => resolve(id)); socket.connect() }),
   // While it is opening, socket.io-client would not notice before its own time-out.
   cut: async () => { if (socket.connected) socket.io.engine.close(); return true },
   scope: async (name, where) => { await models[name].addScope(where); return true },
   sync: async () => { await app.synchronizeAll(); return true },
   create: (name, data) => models[name].create(data),
   update: async (name, uid, data) => (await models[name].update(uid, data)) ?? null,
   remove: async (name, uid) => { await models[name].remove(uid); return true },
   find: async (name, where) => models[name].findWhere(where),
   meta: async (name, uid) => models[name].metadata.get(uid) ?? null,
   pending: async name => [...models[name].metadata.values()].filter(m => m.__dirty__).length,
   skew: async ms => { skew = ms; return true },
   errors: async name => models[name].errors,
   // What a test arranges in the client's stores, or looks up there.
   arrange: async (name, uid, value, meta) => {
      if (value) models[name].values.set(uid, { uid, ...value })
      if (meta) models[name].metadata.set(uid, { uid, ...meta })
      return true
   },
   get: async (name, uid) => models[name].values.get(uid) ?? null,
   reset: async name => { models[name].reset(); return true },
   forget: async (name, where) => models[name].removeScope(where),
   status: async () => ({ isConnected: app.isConnected ?? null, disconnectedDate: app.disconnectedDate }),
   events: async () => seen.splice(0),
   call: (service, method, ...args) => app.call(service, method, ...args),
   emit: async (event, ...args) => { socket.emit(event, ...args); return true },
}

for await (const line of createInterface({ input: process.stdin })) {
   const { id, do: name, args } = JSON.parse(line)
   Promise.resolve().then(() => commands[name](...(args ?? []))).then(
      result => console.log(JSON.stringify({ id, result })),
      e => console.log(JSON.stringify({ id, error: { code: e.code, message: e.message } })))
}
process.exit(0)
