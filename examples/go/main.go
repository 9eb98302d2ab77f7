// A device without an SDK, in Go with paho.mqtt.golang: sends a message, and prints what the hub sends to it.
// DEVICE_CONNECTION_STRING says which device, CA_FILE whom it trusts. `-once` ends after the first message to the device.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log"
	"net/url"
	"os"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// token is the password: the resource and the time of expiry, signed with the device's key.
func token(host, device, key string) string {
	secret, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		log.Fatal(err)
	}
	resource := url.QueryEscape(host + "/devices/" + device)
	expiry := time.Now().Add(time.Hour).Unix()
	signing := hmac.New(sha256.New, secret)
	fmt.Fprintf(signing, "%s\n%d", resource, expiry)
	signature := base64.StdEncoding.EncodeToString(signing.Sum(nil))
	return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d", resource, url.QueryEscape(signature), expiry)
}

func main() {
	parts := map[string]string{}
	for _, part := range strings.Split(os.Getenv("DEVICE_CONNECTION_STRING"), ";") {
		name, value, _ := strings.Cut(part, "=")
		parts[name] = value
	}
	host, device := parts["HostName"], parts["DeviceId"]
	file := os.Getenv("CA_FILE")
	if file == "" {
		file = "data/ca.pem"
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)

	done := make(chan struct{}, 1)
	options := mqtt.NewClientOptions().
		AddBroker("ssl://" + host + ":8883").
		SetClientID(device).
		SetUsername(host + "/" + device + "/?api-version=2021-04-12").
		SetPassword(token(host, device, parts["SharedAccessKey"])).
		SetProtocolVersion(4). // MQTT 3.1.1
		SetTLSConfig(&tls.Config{RootCAs: roots})
	client := mqtt.NewClient(options)
	wait(client.Connect())
	wait(client.Subscribe("devices/"+device+"/messages/devicebound/#", 1, func(_ mqtt.Client, message mqtt.Message) {
		fmt.Printf("%s %s\n", message.Topic(), message.Payload())
		if len(os.Args) > 1 && os.Args[1] == "-once" {
			done <- struct{}{}
		}
	}))
	// The properties of a message are the end of its topic.
	topic := "devices/" + device + "/messages/events/room=kitchen&%24.ct=application%2Fjson&%24.ce=utf-8"
	wait(client.Publish(topic, 1, false, `{"temperature": 20}`)) // the hub has it on disk
	fmt.Println("sent")
	<-done
	client.Disconnect(250)
}

func wait(token mqtt.Token) {
	if token.Wait() && token.Error() != nil {
		log.Fatal(token.Error())
	}
}
