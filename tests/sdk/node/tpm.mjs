// A software TPM for the SDKs: Debian's swtpm, reached by the plain protocol of its socket.
// tss.js speaks to simulators of another protocol; its device is replaced, which its `Tpm` takes as it is.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { require, until } from './hub.mjs';

const { Tpm } = require('tss.js');

/** Whether swtpm is there; a build of the project's own must have it. */
export function hasSoftwareTpm() {
  const found = process.env.PATH.split(path.delimiter).some((folder) => existsSync(path.join(folder, 'swtpm')));
  if (!found && process.env.CI) throw new Error('swtpm is not installed (Debian: apt install swtpm)');
  return found;
}

/** One connection of commands; a response follows each. */
class SwtpmDevice {
  constructor(socket) {
    this.path = socket;
  }

  connect(continuation) {
    this.received = Buffer.alloc(0);
    this.socket = net.connect(this.path);
    this.socket.once('error', (error) => this.done?.(error));
    this.socket.on('data', (data) => {
      this.received = Buffer.concat([this.received, data]);
      // Tag, size, code, the rest.
      const size = this.received.length < 6 ? Infinity : this.received.readUInt32BE(2);
      if (this.received.length < size) return;
      const response = this.received.subarray(0, size);
      this.received = this.received.subarray(size);
      const { done } = this;
      this.done = undefined;
      done?.(null, response);
    });
    this.socket.once('connect', () => continuation(null));
    return null;
  }

  dispatchCommand(command, continuation) {
    this.done = continuation;
    this.socket.write(command);
  }

  close() {
    this.socket.end();
  }
}

/** Starts swtpm; `tpm()` is a connection for a security client, one after the other. */
export async function softwareTpm() {
  const folder = mkdtempSync(path.join(tmpdir(), 'tpm-'));
  const [data, control] = ['data', 'control'].map((name) => path.join(folder, name));
  const child = spawn('swtpm', [
    ...['socket', '--tpm2', '--flags', 'not-need-init,startup-clear', '--tpmstate', `dir=${folder}`],
    ...['--server', `type=unixio,path=${data}`, '--ctrl', `type=unixio,path=${control}`],
  ]);
  await until(() => existsSync(data), 'swtpm to listen');
  const devices = [];
  return {
    tpm() {
      const tpm = new Tpm(false);
      tpm.device = new SwtpmDevice(data);
      devices.push(tpm.device);
      return tpm;
    },
    stop() {
      devices.forEach((device) => device.socket?.destroy());
      child.kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
